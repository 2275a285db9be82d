"""The deck: slides as plain data (`blocks`, `slides`), rendered twice: as HTML (`html`) and PowerPoint (`pptx`)."""

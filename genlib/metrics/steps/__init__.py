"""What is measured of training steps: what each player's move does, and how much the gradient's estimate varies."""

"""Generative models trained, sampled and compared reproducibly: autoencoders, VAEs and GANs."""

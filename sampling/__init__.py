"""Drawing images from a trained GAN."""

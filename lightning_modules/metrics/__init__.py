"""Numbers for generated images: features of them, and what follows from those."""

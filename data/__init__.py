"""Images for training: data modules, decoding, the bundled style pictures, and the stream that orders them."""

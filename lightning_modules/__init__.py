"""What trains: style transfer, generative adversarial networks and a classifier, as Lightning modules."""

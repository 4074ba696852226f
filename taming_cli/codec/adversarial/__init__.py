"""What is trained against the codec: the discriminator."""

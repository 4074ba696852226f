"""What is trained against the codec: the discriminator, and what it sees."""

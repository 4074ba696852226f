"""Pictures of any size through a codec, in bounded memory."""

"""`taming doctor`: checks of versions, devices, weights, folders and settings on this machine."""

"""Sets the policies of a startup kit, and takes them back."""

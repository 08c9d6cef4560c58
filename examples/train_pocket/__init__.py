"""How the pocket model was trained."""

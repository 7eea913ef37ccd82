"""What is done with any board that answers the link."""

"""A tiny family of real models and the drawn world they were trained on: small enough to travel with the pack."""

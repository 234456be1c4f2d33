"""What the rooms exchange: concepts, configs, frames, what was known, and errors for people."""

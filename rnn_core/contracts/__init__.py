"""What the rooms hand to each other: concepts, configs, frames, what was known, and the errors that people read."""

"""Speed and memory of the main job on PhysioNet 2012 set a, each as a ratio against a named alternative in the same run."""

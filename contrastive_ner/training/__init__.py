"""Training: from a configuration to a model, with tasks, phases, losses and Trainers."""

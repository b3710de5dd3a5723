"""From a configuration to a trained model: tasks, phases, losses, Trainers."""

"""Using a trained model: tagging records and files, export, the runtime without torch."""

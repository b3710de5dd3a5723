"""A trained model at work: tagging records and files, export, the runtime without torch."""

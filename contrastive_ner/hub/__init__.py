"""Models as repositories: manifest, checks, bundles, uploads, the model card."""

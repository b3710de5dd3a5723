"""Models as repositories: model card, manifest, checks, bundles, uploads."""

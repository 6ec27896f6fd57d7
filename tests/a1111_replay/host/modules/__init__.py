"""A replay of the WebUI's package ``modules``: what extensions can see of it, and no more."""

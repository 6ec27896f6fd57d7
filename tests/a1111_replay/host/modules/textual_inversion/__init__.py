"""As in the WebUI, a package of its own."""

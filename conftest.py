"""What the whole repository needs: pytest's own tool for testing plugins (it may only be named here, at the top)."""

pytest_plugins = ("pytester",)

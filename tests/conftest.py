"""What all tests share: the plugin that this package brings for its users, and pytest's means to test plugins."""

pytest_plugins = ["pytester", "pytest_aiomultistack"]

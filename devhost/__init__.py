"""A local stand-in for the Azure Functions host: runs this app where only Python is installed. Never deployed."""

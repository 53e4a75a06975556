"""The HTTP face of the engine: `kappamask serve`."""

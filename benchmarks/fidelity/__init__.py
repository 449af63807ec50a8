"""Made cases for the comparison of product and picture: honest results and altered ones. Run it as a module."""

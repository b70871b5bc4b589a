"""Pure functions over arrays and plain values: metrics and figures. Imports nothing else of this package."""

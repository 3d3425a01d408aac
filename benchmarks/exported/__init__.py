"""Models of well-known libraries with random weights, as those libraries' own exporters write them; nothing is downloaded."""

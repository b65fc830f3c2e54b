"""`pld serve`: policies for anyone who speaks openpi's websocket protocol."""

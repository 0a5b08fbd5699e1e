"""The served dashboard: pages of HTML and figures, whose whole state is their address."""

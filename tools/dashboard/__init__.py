"""Draws a Grafana dashboard from a Prometheus, without Grafana: `./run draw-dashboard`."""

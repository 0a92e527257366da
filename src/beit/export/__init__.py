"""Files for other projects: their layouts, parity reports, models for other image sizes."""

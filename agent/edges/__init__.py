"""Touch the world. The only place that imports NVML, aiohttp, sqlite3, subprocess."""

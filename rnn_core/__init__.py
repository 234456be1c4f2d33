"""Windows, recurrent networks and the statistics of ICU forecasts; knows no database and no scheduler."""

"""Who talked to whom, in a fleet: recordings of many hosts, joined. The join is map.sql."""

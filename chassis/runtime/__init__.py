"""Starting and stopping the station's own services, whatever they run on."""

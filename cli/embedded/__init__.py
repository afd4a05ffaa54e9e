"""The embedded station: six processes under supervisord in one folder."""

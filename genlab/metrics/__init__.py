"""What ``genlab eval`` measures: functions of a model's capabilities and data, one file each."""

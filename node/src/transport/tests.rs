mod hostile;
mod peers;
mod world;

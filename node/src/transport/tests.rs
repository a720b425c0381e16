mod hostile;
mod limits;
mod peers;
mod world;

//! A shop's carts: two programs change one cart at the same time, and nothing is lost.
//!
//! ```console
//! $ cargo run --release -- up                                       # in another terminal
//! $ cargo run --release -p quoit-client --example carts quoit-data/client
//! ```

use std::collections::BTreeSet;
use std::error::Error;

use quoit_client::{
    ClientBuilder, ConflictPolicy, Format, Level, Profile, Session, TableOptions, Union,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args().nth(1).unwrap_or_else(|| "quoit-data/client".to_owned());
    let client = ClientBuilder::from_directory(directory)?.connect().await?;
    let options = TableOptions { policy: ConflictPolicy::Siblings, ..TableOptions::default() };
    client.create_table("carts", options).await?;
    let carts = client.table("carts").await?;

    // Two writers add to one cart. Each reads, adds and writes; where both did so at once, one of them
    // meets both values and writes their union.
    let typed = carts.typed::<BTreeSet<String>>(Format::Json);
    let add = |item: &'static str| {
        let typed = typed.clone();
        async move {
            let add = |cart: Option<BTreeSet<String>>| {
                let mut cart = cart.unwrap_or_default();
                cart.insert(item.to_owned());
                Some(cart)
            };
            typed.update("alice", &Union, add).await
        }
    };
    let (apples, pears) = tokio::join!(add("apples"), add("pears"));
    println!("apples took {} rounds, pears {}", apples?.rounds, pears?.rounds);
    println!("the cart: {:?}", typed.get("alice").await?.resolved(&Union));

    // One replica is asked; a second one only if the first has not got what this session wrote.
    let profile = Profile::new().read_level(Level::One).session(Session::new());
    let near = carts.with_profile(&profile);
    let written = near.replace("bob", "[\"plums\"]").await?;
    let reading = near.get("bob").await?;
    println!(
        "bob's cart was written by {} to {} replicas, and read by {} from {} in {:?}",
        written.service.coordinator,
        written.acknowledged,
        reading.service.coordinator,
        reading.answered,
        reading.service.took,
    );
    client.close().await;
    Ok(())
}

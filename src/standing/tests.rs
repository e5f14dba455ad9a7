use std::{cell::Cell, time::Duration};

use openvalidators_messages::Block;
use openvalidators_runtime::{SystemClock, within};

use super::*;
use crate::health::tests::{OURS, metagraph};

const OTHER: Hotkey = Hotkey([8; 32]);

fn without_us() -> Metagraph {
    let mut metagraph = Metagraph::clone(&metagraph(200));
    metagraph.neurons[0].hotkey = OTHER;
    metagraph
}

#[test]
fn who_has_no_place_is_told_how_to_get_one() {
    let chain = ChainConfig { endpoint: "finney".parse().unwrap(), netuid: 64, ..ChainConfig::default() };
    assert_eq!(place(&metagraph(100), &OURS, &chain), Ok(Uid(0)));
    let told = place(&without_us(), &OURS, &chain).unwrap_err().to_string();
    let address = ss58::encode(&OURS);
    for word in [address.as_str(), "subnet 64 of finney", "btcli subnets register --netuid 64", "--wallet.hotkey"] {
        assert!(told.contains(word), "{word}: {told}");
    }
}

#[tokio::test]
async fn a_place_is_lost_when_it_is_shown_twice() {
    let (clock, short, patience) = (SystemClock::new(), Duration::from_millis(50), Duration::from_secs(10));
    let (show, seen) = watch::channel(metagraph(100));
    let gone = Cell::new(None);
    let read_again = || async {
        let away = ChainError::Unreachable { call: "metagraph".to_owned(), reason: "test".to_owned() };
        match gone.get() {
            Some(true) => Ok(without_us()),
            Some(false) => Ok(Metagraph::clone(&metagraph(200))),
            None => Err(away),
        }
    };
    let lost = lost(seen, OURS, read_again);
    tokio::pin!(lost);
    assert!(within(&clock, short, lost.as_mut()).await.is_err(), "we hold our place");
    for confused in [Some(false), None] {
        gone.set(confused);
        show.send_replace(Arc::new(without_us()));
        assert!(within(&clock, short, lost.as_mut()).await.is_err(), "one node's word for a moment: {confused:?}");
    }
    gone.set(Some(true));
    show.send_replace(Arc::new(Metagraph { block: Block(300), ..without_us() }));
    let told = within(&clock, patience, lost).await.unwrap();
    for word in [ss58::encode(&OURS), format!("uid 0 is held by {}", ss58::encode(&OTHER)), "block 201".to_owned()] {
        assert!(told.contains(&word), "{word}: {told}");
    }
}

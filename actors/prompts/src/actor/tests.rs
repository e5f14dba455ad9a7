use std::collections::HashSet;

use openvalidators_messages::ForwardId;
use rand::RngCore;

use super::*;
use crate::source::Embedded;

fn start(source: Arc<dyn Source>, seed: u64) -> Mailboxes {
    let mailboxes = Mailboxes::new(8, &Registry::new()).unwrap();
    mailboxes.attach(&PromptsActor::new(source, Seed(seed)).start());
    mailboxes
}

async fn drawn(mailboxes: &Mailboxes, forward: u64) -> prompts::Context {
    mailboxes.draw.call(Draw { forward: ForwardId(forward) }).await.unwrap().unwrap()
}

#[actix::test]
async fn what_is_drawn_depends_on_seed_and_forward_alone() {
    let (first, again, other) =
        (start(Arc::new(Embedded::new()), 1), start(Arc::new(Embedded::new()), 1), start(Arc::new(Embedded::new()), 2));
    let mut sources = HashSet::new();
    let mut same = 0;
    for forward in 0..40 {
        let context = drawn(&first, forward).await;
        assert_eq!(context, drawn(&again, forward).await);
        same += usize::from(context == drawn(&other, forward).await);
        sources.insert(context.source);
    }
    assert!(sources.len() > 20 && same < 10, "{} different, {same} as with another seed", sources.len());
    assert!(sources.iter().all(|source| source.starts_with("embedded:")));
}

struct Broken;

impl Source for Broken {
    fn name(&self) -> String {
        "broken".to_owned()
    }

    fn draw(&self, _: &mut dyn RngCore) -> Result<prompts::Context, SourceError> {
        panic!("a defect in a source, in this test on purpose")
    }
}

#[actix::test]
async fn a_source_that_panics_is_an_error_of_that_draw() {
    let mailboxes = start(Arc::new(Broken), 1);
    for _ in 0..20 {
        let error = mailboxes.draw.call(Draw { forward: ForwardId(1) }).await.unwrap().unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
    }
    assert_eq!(mailboxes.inbox.health().depth, 0);
}

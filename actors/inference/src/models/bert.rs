//! BERT: <https://arxiv.org/abs/1810.04805>, as in
//! <https://github.com/huggingface/transformers/blob/v4.28.0/src/transformers/models/bert/modeling_bert.py>.
//!
//! Only the encoder: the pooler and any head of the checkpoint are left in the file.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::{
    Encoder, Network, Packed,
    encoder::{Body, Config, Names, Positions},
    parse,
};
use crate::ops::Bias;

/// Makes the network from its `config.json` and its tensors.
pub(crate) fn build(config: &[u8], tensors: VarBuilder<'_>) -> Result<Network> {
    Ok(Network::Encoder(Box::new(Bert::load(tensors, &parse(config)?)?)))
}

/// The network on its device.
#[derive(Debug)]
pub(crate) struct Bert(Body);

impl Bert {
    /// Takes the encoder out of a checkpoint, whether its names carry the prefix `bert.` or not, and whether its norms
    /// are called `weight` and `bias` or, as in the first checkpoints, `gamma` and `beta`.
    pub(crate) fn load(vb: VarBuilder<'_>, config: &Config) -> Result<Self> {
        let prefixed = vb.contains_tensor("bert.embeddings.word_embeddings.weight");
        let embeddings = if prefixed { "bert.embeddings" } else { "embeddings" };
        // Renamed before the prefix is put on: a name is renamed whole.
        let vb = if vb.contains_tensor(&format!("{embeddings}.LayerNorm.gamma")) {
            vb.rename_f(|name| {
                if !name.contains("LayerNorm") {
                    return name.to_owned();
                }
                name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            })
        } else {
            vb
        };
        let vb = if prefixed { vb.pp("bert") } else { vb };
        Body::load(&vb, config, Names::BERT, Positions::Placed).map(Self)
    }
}

impl Encoder for Bert {
    fn max_tokens(&self) -> usize {
        self.0.max_tokens()
    }

    fn forward(&self, batch: &Packed) -> Result<Tensor> {
        self.0.states(batch, Bias::None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::parity::{
        Fixture, assert_close, assert_every_tensor_is_asked_for, assert_rows_are_their_own, embedding,
        embedding_of_windows, floats, golden, texts,
    };

    const FIXTURE: Fixture = Fixture { name: "bert", build };

    #[test]
    fn embeddings_equal_the_references() {
        let bert = FIXTURE.encoder();
        let golden = golden("relevance");
        let texts = texts("completions");
        for (text, expected) in texts.iter().zip(golden["bert_embeddings"].as_array().unwrap()) {
            let ours = embedding_of_windows(&*bert, &FIXTURE.windows(text, 128));
            assert_close(&ours, &floats(expected));
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_batch() {
        let bert = FIXTURE.encoder();
        assert_rows_are_their_own(|batch| bert.forward(batch).unwrap());
    }

    #[test]
    fn a_row_too_long_is_an_error() {
        let bert = FIXTURE.encoder();
        assert_eq!(bert.forward(&Packed::new([[5_u32; 128].as_slice()])).unwrap().dims(), [128, 48]);
        let error = bert.forward(&Packed::new([[5_u32; 129].as_slice()])).unwrap_err().to_string();
        assert!(error.contains("129 tokens in a model of 128"), "{error}");
    }

    #[test]
    fn a_missing_tensor_is_named() {
        assert_every_tensor_is_asked_for(&FIXTURE, |name| name.starts_with("pooler."));
    }

    #[test]
    fn a_checkpoint_may_carry_a_prefix_and_the_first_names_of_norms() {
        let old = |name: &str| {
            vec![match name.split_once("LayerNorm.") {
                Some((before, "weight")) => format!("bert.{before}LayerNorm.gamma"),
                Some((before, _)) => format!("bert.{before}LayerNorm.beta"),
                None => format!("bert.{name}"),
            }]
        };
        let Network::Encoder(old) = FIXTURE.changed(|_| (), old).unwrap() else { unreachable!() };
        let ids = [2, 17, 80, 3];
        let expected = embedding(&*FIXTURE.encoder(), &ids);
        assert_eq!(embedding(&*old, &ids), expected);
    }
}

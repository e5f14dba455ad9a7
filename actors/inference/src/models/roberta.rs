//! RoBERTa and DistilRoBERTa: <https://arxiv.org/abs/1907.11692>, as in
//! <https://github.com/huggingface/transformers/blob/v4.28.0/src/transformers/models/roberta/modeling_roberta.py>.
//!
//! A checkpoint with a classification head (`RobertaForSequenceClassification`) judges, any other embeds; a pooler or a
//! language-model head is left in the file.

use candle_core::{Result, Tensor};
use candle_nn::{Linear, VarBuilder};
use serde::Deserialize;

use super::{
    Classifier, Encoder, Network, Packed,
    encoder::{self, Body, Names, Positions},
    parse,
};
use crate::ops::{self, Bias};

/// Makes the network from its `config.json` and its tensors.
pub(crate) fn build(config: &[u8], tensors: VarBuilder<'_>) -> Result<Network> {
    let config = parse(config)?;
    let roberta = Roberta::load(&tensors, &config)?;
    if !tensors.contains_tensor("classifier.out_proj.weight") {
        return Ok(Network::Encoder(Box::new(roberta)));
    }
    Ok(Network::Classifier(Box::new(RobertaClassifier::load(roberta, &tensors.pp("classifier"), &config)?)))
}

/// What `config.json` says of the network.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(flatten)]
    pub(crate) body: encoder::Config,
    /// Positions count from behind this row.
    pub(crate) pad_token_id: u32,
}

/// The network on its device.
#[derive(Debug)]
pub(crate) struct Roberta(Body);

/// The network and a head that reads the state of each row's first token.
#[derive(Debug)]
pub(crate) struct RobertaClassifier {
    body: Body,
    dense: Linear,
    out: Linear,
    labels: usize,
}

// === impl Roberta ===

impl Roberta {
    /// Takes the encoder out of a checkpoint, whether its names carry the prefix `roberta.` or not.
    pub(crate) fn load(vb: &VarBuilder<'_>, config: &Config) -> Result<Self> {
        let prefixed = vb.contains_tensor("roberta.embeddings.word_embeddings.weight");
        let vb = if prefixed { vb.pp("roberta") } else { vb.clone() };
        Body::load(&vb, &config.body, Names::BERT, Positions::Counted { padding: config.pad_token_id }).map(Self)
    }
}

impl Encoder for Roberta {
    fn max_tokens(&self) -> usize {
        self.0.max_tokens()
    }

    fn forward(&self, batch: &Packed) -> Result<Tensor> {
        self.0.states(batch, Bias::None)
    }
}

// === impl RobertaClassifier ===

impl RobertaClassifier {
    fn load(Roberta(body): Roberta, head: &VarBuilder<'_>, config: &Config) -> Result<Self> {
        let (hidden, labels) = (config.body.hidden_size, config.body.id2label.len());
        Ok(Self {
            body,
            dense: candle_nn::linear(hidden, hidden, head.pp("dense"))?,
            out: candle_nn::linear(hidden, labels, head.pp("out_proj"))?,
            labels,
        })
    }
}

impl Classifier for RobertaClassifier {
    fn max_tokens(&self) -> usize {
        self.body.max_tokens()
    }

    fn labels(&self) -> usize {
        self.labels
    }

    fn logits(&self, batch: &Packed) -> Result<Tensor> {
        ops::linear(&self.out, &ops::linear(&self.dense, &self.body.firsts(batch)?)?.tanh()?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::models::parity::{
        Fixture, assert_close, assert_every_tensor_is_asked_for, assert_rows_are_their_own, embedding_of_windows,
        floats, gating_layer, golden, texts,
    };

    const NSFW: Fixture = Fixture { name: "roberta_nsfw", build };
    const GATING: Fixture = Fixture { name: "distilroberta", build };

    /// The reference cuts the ids of a text into pieces of 512 and judges each, without new special tokens.
    #[test]
    fn logits_equal_the_references() {
        let roberta = NSFW.classifier();
        assert_eq!((roberta.max_tokens(), roberta.labels()), (512, 2));
        let golden = golden("nsfw_roberta");
        let mut texts = texts("completions");
        texts.push(golden["extra_completion"].as_str().unwrap().to_owned());
        let mut pieces = 0;
        for (text, row) in texts.iter().zip(golden["rows"].as_array().unwrap()) {
            let ids = NSFW.encode(text);
            let logits = roberta.logits(&Packed::new(ids.chunks(512))).unwrap();
            let ours: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
            let expected: Vec<f32> = row["chunk_logits"].as_array().unwrap().iter().flat_map(floats).collect();
            assert_close(&ours, &expected);
            pieces += ours.len() / 2;
        }
        assert!(pieces > texts.len(), "a text of several pieces is among them");
    }

    /// What the sentence-embedding gating model of the reference says: a linear layer over the mean embedding.
    #[test]
    fn embeddings_equal_the_references() {
        let roberta = GATING.encoder();
        let step = &golden("gating")["distilroberta"][0];
        let text = step["message"].as_str().unwrap();
        let mean = embedding_of_windows(&*roberta, &GATING.windows(text, 128));
        let mean = Tensor::from_vec(mean, (1, 32), &Device::Cpu).unwrap();
        let scores = ops::linear(&gating_layer("distilroberta"), &mean).unwrap();
        assert_close(&scores.squeeze(0).unwrap().to_vec1::<f32>().unwrap(), &floats(&step["scores"]));
    }

    #[test]
    fn a_row_does_not_depend_on_its_batch() {
        let encoder = GATING.encoder();
        assert_rows_are_their_own(|batch| encoder.forward(batch).unwrap());
        let classifier = NSFW.classifier();
        assert_rows_are_their_own(|batch| classifier.logits(batch).unwrap());
    }

    /// Two of the position rows belong to padding and are never a token's.
    #[test]
    fn a_row_too_long_is_an_error() {
        let roberta = GATING.encoder();
        assert_eq!(roberta.forward(&Packed::new([[5_u32; 128].as_slice()])).unwrap().dims(), [128, 32]);
        let error = roberta.forward(&Packed::new([[5_u32; 129].as_slice()])).unwrap_err().to_string();
        assert!(error.contains("129 tokens in a model of 128"), "{error}");
    }

    #[test]
    fn a_missing_tensor_is_named() {
        // By the first of these the prefix is known, and by the second the head.
        let tells = ["roberta.embeddings.word_embeddings.weight", "classifier.out_proj.weight"];
        assert_every_tensor_is_asked_for(&NSFW, |name| tells.contains(&name));
        assert_every_tensor_is_asked_for(&GATING, |name| name.starts_with("pooler."));
    }
}

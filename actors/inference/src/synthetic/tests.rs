use candle_core::{DType, Device};
use openvalidators_messages::inference::ModelName;

use super::*;
use crate::{
    config::Config,
    models::{Network, Packed},
};

fn source(role: &str, folder: &Path) -> ModelSource {
    stack(Size::Tiny).unwrap()[role].write(folder, 7).unwrap();
    ModelSource { name: ModelName::new(role), directory: folder.to_owned() }
}

/// What a network says of a row, whatever it is.
fn says(network: &Network, ids: &[u32]) -> Vec<f32> {
    let batch = Packed::new([ids]);
    let said = match network {
        Network::Encoder(network) => network.forward(&batch).unwrap(),
        Network::Classifier(network) => network.logits(&batch).unwrap(),
        Network::CausalLm(network) => network.logits(&network.body.prefill(ids).unwrap().0).unwrap(),
        Network::CausalClassifier(network) => network.logits(&network.body.prefill(ids).unwrap().0).unwrap(),
    };
    said.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn stacks_have_the_same_roles_and_every_tiny_network_says_finite_and_moderate_things() {
    let roles = |size| stack(size).unwrap().into_keys().collect::<Vec<_>>();
    assert!(roles(Size::Full) == roles(Size::Base) && roles(Size::Full) == roles(Size::Tiny));
    for role in roles(Size::Tiny) {
        let folder = tempfile::tempdir().unwrap();
        let network = source(&role, folder.path()).network().unwrap();
        let said = says(&network, &[9, 300, 20, 599]);
        let most = said.iter().fold(0_f32, |most, value| most.max(value.abs()));
        assert!(said.iter().all(|value| value.is_finite()) && (0.01..100.0).contains(&most), "{role}: {most}");
        assert_ne!(said, says(&network, &[9, 301, 20, 599]), "{role}");
    }
}

#[test]
fn weights_written_out_are_those_of_the_network() {
    for role in stack(Size::Tiny).unwrap().into_keys() {
        let folder = tempfile::tempdir().unwrap();
        let source = source(&role, folder.path());
        let random = says(&source.network().unwrap(), &[9, 300, 20]);
        write_weights(&source).unwrap();
        // A network that took its tensors from elsewhere would fail without this file, or with too much in it.
        std::fs::remove_file(folder.path().join(tensors::FILE)).unwrap();
        assert_eq!(says(&source.network().unwrap(), &[9, 300, 20]), random, "{role}");
    }
}

#[test]
fn a_word_is_a_token_and_special_tokens_stand_where_the_architecture_has_them() {
    for (role, single, pair) in [("relevance_bert", 2, 3), ("relevance_mpnet", 2, 4), ("rlhf", 2, 3), ("dpo", 0, 0)] {
        let folder = tempfile::tempdir().unwrap();
        source(role, folder.path());
        let tokenizer = tokenizers::Tokenizer::from_file(folder.path().join("tokenizer.json")).unwrap();
        let text = format!("{} {} {}", word(0), word(4), word(591));
        let ids = tokenizer.encode(text.as_str(), true).unwrap().get_ids().to_vec();
        assert_eq!(ids.len(), 3 + single, "{role}");
        assert_eq!(&ids[single / 2..single / 2 + 3], [8, 12, 599], "{role}");
        assert_eq!(tokenizer.encode((text.as_str(), "w1"), true).unwrap().len(), 4 + pair, "{role}");
    }
}

#[test]
fn tensors_depend_on_seed_and_name_and_fit_their_config() {
    let folder = tempfile::tempdir().unwrap();
    let networks = stack(Size::Tiny).unwrap();
    let vector = |seed, name: &str| {
        networks["nsfw"].write(folder.path(), seed).unwrap();
        let random = RandomTensors::open(folder.path(), &mut Vec::new()).unwrap().unwrap();
        let tensors = random.tensors(DType::F32, &Device::Cpu);
        tensors.get((3, 4), name).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(vector(1, "a"), vector(1, "a"));
    assert!(vector(1, "a") != vector(2, "a") && vector(1, "a") != vector(1, "b"));
    let random = RandomTensors::open(folder.path(), &mut Vec::new()).unwrap().unwrap();
    let error = random.tensors(DType::F32, &Device::Cpu).get((3, 4), "classifier.out_proj.weight").unwrap_err();
    assert!(crate::models::reason(&error).contains("has shape [2, 64]"), "{error}");
}

/// Full-size weights do not fit a test; that their config is a network's does.
#[test]
fn every_config_is_read_by_its_architecture() {
    for size in [Size::Full, Size::Base] {
        for (role, mut network) in stack(size).unwrap() {
            let folder = tempfile::tempdir().unwrap();
            // Sizes that no other part of the config is checked against.
            for (key, layers) in [("n_layer", 0), ("num_hidden_layers", 0), ("vocab_size", 100)] {
                if network.config.get(key).is_some() {
                    network.config[key] = layers.into();
                }
            }
            if let Some(shape) = network.tensors.get_mut("roberta.embeddings.word_embeddings.weight") {
                shape[0] = 100;
            }
            network.write(folder.path(), 1).unwrap();
            let source = ModelSource { name: ModelName::new(&role), directory: folder.path().to_owned() };
            let loaded =
                catalogue::load(&source, &Config::default(), DType::F32, &Device::Cpu).map(|loaded| loaded.network);
            assert!(loaded.is_ok(), "{size:?} {role}: {}", loaded.err().unwrap());
        }
    }
}

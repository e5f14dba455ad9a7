use std::{collections::HashMap, io::Write};

use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/parity/models").join(name)
}

fn open(directory: &Path) -> Result<Checkpoint, String> {
    Checkpoint::open(directory, &mut Vec::new()).map(Option::unwrap).map_err(|error| error.to_string())
}

fn tensors(of: &[(&str, &[usize])]) -> HashMap<String, Tensor> {
    let tensor = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
    of.iter().map(|(name, shape)| ((*name).to_owned(), tensor(shape))).collect()
}

fn write(folder: &Path, name: &str, of: &[(&str, &[usize])]) {
    candle_core::safetensors::save(&tensors(of), folder.join(name)).unwrap();
}

#[test]
fn shards_are_one_checkpoint_and_every_file_is_digested() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.safetensors", &[("one", &[2, 3])]);
    write(folder.path(), "b.safetensors", &[("two", &[4])]);
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, r#"{"weight_map": {"one": "a.safetensors", "two": "b.safetensors"}}"#).unwrap();
    let mut digests = Vec::new();
    let checkpoint = Checkpoint::open(folder.path(), &mut digests).unwrap().unwrap();
    let names: Vec<&str> = digests.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["model.safetensors.index.json", "a.safetensors", "b.safetensors"]);
    let vb = checkpoint.tensors(DType::F32, &Device::Cpu);
    assert_eq!(vb.get((2, 3), "one").unwrap().dims(), [2, 3]);
    assert_eq!(vb.get(4, "two").unwrap().dims(), [4]);
    checkpoint.check_taken(&[]).unwrap();

    write(folder.path(), "b.safetensors", &[("one", &[4])]);
    let twice = open(folder.path()).err().unwrap();
    assert!(twice.contains("b.safetensors") && twice.contains("`one` is in") && twice.contains("a.safetensors"));
    fs::remove_file(folder.path().join("b.safetensors")).unwrap();
    assert!(open(folder.path()).err().unwrap().contains("b.safetensors"));
    for (index_text, said) in [
        (r#"{"weight_map": {"one": "../a.safetensors"}}"#, "no plain file name"),
        (r#"{"weight_map": {}}"#, "names 0 files"),
        ("{", "model.safetensors.index.json"),
    ] {
        fs::write(&index, index_text).unwrap();
        let error = open(folder.path()).err().unwrap();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn half_precision_becomes_single_and_other_types_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [half, brain] = [DType::F16, DType::BF16]
        .map(|dtype| Tensor::new(&[1.5_f32, -2.25], &Device::Cpu).unwrap().to_dtype(dtype).unwrap());
    let whole = Tensor::new(&[1_u32, 2], &Device::Cpu).unwrap();
    let all = HashMap::from([("half".to_owned(), half), ("brain".to_owned(), brain), ("whole".to_owned(), whole)]);
    candle_core::safetensors::save(&all, folder.path().join("model.safetensors")).unwrap();
    let vb = open(folder.path()).unwrap().tensors(DType::F32, &Device::Cpu);
    for name in ["half", "brain"] {
        assert_eq!(vb.get(2, name).unwrap().to_vec1::<f32>().unwrap(), [1.5, -2.25]);
    }
    let error = vb.get(2, "whole").unwrap_err().to_string();
    assert!(error.contains("tensor `whole`") && error.contains("model.safetensors: its type is u32"), "{error}");
}

#[test]
fn what_is_missing_misshapen_or_too_much_is_named_with_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let names: &[(&str, &[usize])] =
        &[("h.0.weight", &[2]), ("h.1.weight", &[2]), ("h.0.attn.bias", &[1]), ("pooler.dense.weight", &[2])];
    write(folder.path(), "model.safetensors", names);
    let checkpoint = open(folder.path()).unwrap();
    let vb = checkpoint.tensors(DType::F32, &Device::Cpu);
    let error = vb.get(2, "h.2.weight").unwrap_err().to_string();
    assert!(error.contains("no tensor `h.2.weight` in") && error.contains("model.safetensors"), "{error}");
    let error = vb.get(3, "h.0.weight").unwrap_err().to_string();
    assert!(error.contains("`h.0.weight`") && error.contains("shape [2]; config.json says [3]"), "{error}");
    vb.get(2, "h.0.weight").unwrap();
    let error = checkpoint.check_taken(&["pooler."]).unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("no tensor `h.1.weight`;"), "{error}");
    vb.get(2, "h.1.weight").unwrap();
    checkpoint.check_taken(&["pooler."]).unwrap();
    assert!(checkpoint.check_taken(&[]).unwrap_err().to_string().contains("`pooler.dense.weight`"));
}

/// The pickle of Dahoas and the safetensors beside it hold the same language model.
#[test]
fn a_pickle_holds_what_safetensors_hold() {
    let pickle = open(&fixture("gptj_base")).unwrap();
    assert!(pickle.path().ends_with("hf_ckpt.pt"));
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixture("gptj_base").join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let safetensors = open(folder.path()).unwrap();
    let (ours, theirs) = (pickle.tensors(DType::F32, &Device::Cpu), safetensors.tensors(DType::F32, &Device::Cpu));
    let mut compared = 0;
    for name in safetensors.0.places.keys().filter(|name| ours.contains_tensor(&format!("model.{name}"))) {
        let (a, b) = (ours.get_unchecked(&format!("model.{name}")).unwrap(), theirs.get_unchecked(name).unwrap());
        assert_eq!(a.dims(), b.dims(), "{name}");
        compared += 1;
    }
    assert!(compared > 20, "{compared}");
    assert!(ours.contains_tensor("v_head.weight") && !theirs.contains_tensor("v_head.weight"));
}

#[test]
fn truncated_and_hostile_files_are_errors_and_no_panics() {
    let whole = fs::read(fixture("gptj_base").join("hf_ckpt.pt")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    for keep in [0, 10, 1_000, whole.len() / 2, whole.len() - 30] {
        fs::write(&path, &whole[..keep]).unwrap();
        assert!(open(folder.path()).err().unwrap().contains("pytorch_model.bin"), "{keep} bytes");
    }
    // Every byte of the pickle itself, one after another; the storages behind it are only numbers.
    for at in (0..4_000).step_by(3) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x5a;
        fs::write(&path, &bytes).unwrap();
        let Ok(checkpoint) = open(folder.path()) else { continue };
        let vb = checkpoint.tensors(DType::F32, &Device::Cpu);
        for name in checkpoint.0.places.keys() {
            drop(vb.get_unchecked(name));
        }
    }
    fs::remove_file(&path).unwrap();

    let path = folder.path().join("model.safetensors");
    for header in [
        r#"{"a": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 8]}}"#,
        r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 800]}}"#,
        r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}"#,
        "not json",
    ] {
        let mut file = File::create(&path).unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        file.write_all(&[0; 8]).unwrap();
        assert!(open(folder.path()).err().unwrap().contains("model.safetensors"), "{header}");
    }
    fs::write(&path, u64::MAX.to_le_bytes()).unwrap();
    assert!(open(folder.path()).is_err());
}

#[test]
fn a_folder_without_tensors_has_no_checkpoint() {
    assert!(Checkpoint::open(tempfile::tempdir().unwrap().path(), &mut Vec::new()).unwrap().is_none());
}

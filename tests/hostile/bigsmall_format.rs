//! The containers of the Python package `bigsmall`: all that its releases wrote is found, and what no release would
//! write is refused, without a panic and within bounds.

use crate::{NOW, PEAK, alone};
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use bsfs::Error;
use bsfs::foreign::bigsmall::codec::Coding;
use bsfs::foreign::bigsmall::format::{
    Container, Content, Finished, MAX_RAW_LEN, PREFIX_LEN, ShardIndex, header, shown_name,
};
use bsfs::source::MemorySource;
use bsfs::tensor::ElemType;
use serde_json::{Value, json};

/// What lists that end at a number of values may take, whatever the length of their text.
const LISTS: usize = 16 << 20;

/// Runs something that may neither panic nor allocate more than nine times `len` bytes.
fn bounded<T>(what: &str, len: usize, run: impl FnOnce() -> T) -> T {
    bounded_by(what, 9 * len + (16 << 10), run)
}

/// Runs something that may neither panic nor allocate more than `limit` bytes.
fn bounded_by<T>(what: &str, limit: usize, run: impl FnOnce() -> T) -> T {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| panic!("{what}: panic"));
    let used = PEAK.load(Ordering::Relaxed).saturating_sub(before);
    assert!(used <= limit, "{what}: {used} bytes allocated, more than {limit}");
    result
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bigsmall")
}

fn manifest() -> Vec<Value> {
    let text = fs::read(fixtures().join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&text).unwrap();
    manifest["files"].as_array().unwrap().clone()
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(fixtures().join(name)).unwrap()
}

fn open(bytes: &[u8]) -> bsfs::Result<Container> {
    Container::open(&MemorySource::new("x.bs", bytes.to_vec()))
}

/// A container of this header text.
fn packed(version: u16, header: &[u8], data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(header.len()).unwrap();
    [b"BGSM", &version.to_le_bytes()[..], &len.to_le_bytes(), header, data].concat()
}

/// Opens a container of these tensors with 1000 bytes of data.
fn tensors(tensors: Value) -> bsfs::Result<Container> {
    open(&packed(1, json!({ "tensors": tensors }).to_string().as_bytes(), &[0; 1000]))
}

const MD5: &str = "d41d8cd98f00b204e9800998ecf8427e";

/// An entry of ten bytes as they are, changed by `edit`.
fn entry(name: &str, offset: u64, edit: Value) -> Value {
    let mut entry = json!({"name": name, "shape": [10], "dtype": "uint8", "codec": "raw", "special": null,
        "compressed_bytes": 10, "offset": offset, "md5": MD5, "extra": null});
    for (key, value) in edit.as_object().unwrap() {
        entry[key] = value.clone();
    }
    entry
}

fn elem(name: &str) -> ElemType {
    ElemType::from_name(name).unwrap()
}

/// The message of an error that says the file is damaged.
#[track_caller]
fn corrupt<T: std::fmt::Debug>(result: bsfs::Result<T>) -> String {
    match result.unwrap_err() {
        error @ Error::Corrupt { .. } => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_tensor_of_every_release_is_found() {
    let _alone = alone();
    let (mut files, mut found) = (0, 0);
    for file in manifest() {
        let path = file["path"].as_str().unwrap();
        let bytes = fixture(path);
        let container = bounded(path, bytes.len(), || open(&bytes)).unwrap();
        let entries: BTreeMap<_, _> = container.entries().iter().map(|e| (e.name.as_str(), e)).collect();
        let tensors = file["tensors"].as_array().unwrap();
        assert_eq!(entries.len(), tensors.len(), "{path}");
        for tensor in tensors {
            let entry = entries[tensor["name"].as_str().unwrap()];
            assert_eq!(json!(entry.dtype), tensor["dtype"], "{path}, {}", entry.name);
            assert_eq!(json!(entry.shape), tensor["shape"], "{path}, {}", entry.name);
            assert_eq!(json!(entry.raw_len), tensor["nbytes"], "{path}, {}", entry.name);
            assert_eq!(codec(&entry.content), tensor["codec"].as_str().unwrap(), "{path}, {}", entry.name);
            found += 1;
        }
        assert_eq!(container.is_delta(), file["call"] == "compress_delta", "{path}");
        assert_eq!(json!(container.base_model()), file["base"], "{path}");
        assert_eq!(container.file_len(), bytes.len() as u64);
        assert!(container.memory() > 0);
        files += 1;
    }
    assert!(files >= 34 && found >= 300, "{files} files, {found} tensors");
}

/// The codec's name in the manifest, which a group's first member has from its group.
fn codec(content: &Content) -> &'static str {
    match content {
        Content::Blob(part) => part.coding.name(),
        Content::Same(_) => "tied_ref",
        Content::Slice { skip: 0, .. } | Content::Chain { count: 1, .. } => "group_stream_v1",
        Content::Slice { .. } | Content::Chain { .. } => "group_member",
        Content::Xor(_) => "zstd_xor_delta",
    }
}

#[test]
fn contents_lead_to_the_right_bytes() {
    let _alone = alone();
    let container = open(&fixture("groups-4.0.0.bs")).unwrap();
    let find = |name: &str| container.entries().iter().find(|e| e.name == name).unwrap();
    let Content::Chain { parts, count: 4, width: 4 } = &find("h.3.ln_1.weight").content else { panic!() };
    assert_eq!(parts.iter().map(|p| p.len).collect::<Vec<_>>(), [1269, 227, 226, 241, 225]);
    assert_eq!(parts[0].coding, Coding::Fp32SeAc);
    assert!(parts.iter().all(|p| p.raw_len == 1600));
    let start = parts[0].offset;
    assert_eq!(start, 10 + 4186);
    assert_eq!(parts[4].offset, start + 1269 + 227 + 226 + 241);

    let container = open(&fixture("stack-4.0.0.bs")).unwrap();
    let find = |name: &str| container.entries().iter().position(|e| e.name == name).unwrap();
    let content = |name: &str| &container.entries()[find(name)].content;
    let Content::Slice { part, skip } = content("model.layers.10.self_attn.k_proj.weight") else { panic!() };
    assert_eq!((*skip, part.raw_len, part.len, part.coding), (10 * 9000, 12 * 9000, 77871, Coding::Bf16SeRans));
    assert_eq!(content("tied.z"), &Content::Same(find("tied.k")));

    let container = open(&fixture("mixed-2.0.1.bs")).unwrap();
    assert_eq!(json!(container.metadata()), json!({"format": "pt", "note": "x"}));
    assert_eq!(container.entries()[0].md5[..3], [0xa5, 0xda, 0x3b]);
}

#[test]
fn shown_headers_are_safetensors() {
    let _alone = alone();
    for file in manifest() {
        let path = file["path"].as_str().unwrap();
        let container = open(&fixture(path)).unwrap();
        let layout = container.layout([]).unwrap();
        assert!(layout.header.len().is_multiple_of(64));
        assert_eq!(layout.raw_len, layout.header.len() as u64 + container.tensor_bytes());

        let mut shown = layout.header.clone();
        shown.resize(layout.raw_len as usize, 0);
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&shown).unwrap();
        assert_eq!(json!(metadata.metadata()), json!(container.metadata()), "{path}");
        assert_eq!(metadata.tensors().len(), container.entries().len());
        for (placed, width) in layout.tensors.iter().zip(layout.tensors.iter().skip(1)) {
            assert_eq!(placed.raw_offset + placed.raw_len, width.raw_offset);
        }
        for placed in &layout.tensors {
            let entry = &container.entries()[placed.entry];
            let info = metadata.info(&entry.name).unwrap();
            assert_eq!(format!("{}", info.dtype), entry.dtype);
            assert_eq!(json!(info.shape), json!(entry.shape));
            let start = placed.raw_offset as usize - layout.header.len();
            assert_eq!(info.data_offsets, (start, start + entry.raw_len as usize), "{path}, {}", entry.name);
            assert!(placed.raw_offset.is_multiple_of(u64::from(entry.elem.bits()) / 8));
        }
    }
}

/// What a header has looked like since the first release that read these files. Never to be changed.
const SHOWN: &str = r#"{"__metadata__":{"a":"1","format":"pt"},"z":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"a/../é\"\\\u0001":{"dtype":"F32","shape":[2,1],"data_offsets":[8,16]},"b":{"dtype":"F32","shape":[0,3],"data_offsets":[16,16]},"B":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},"b2":{"dtype":"BF16","shape":[3],"data_offsets":[22,28]},"m":{"dtype":"U8","shape":[10],"data_offsets":[28,38]},"p":{"dtype":"F4","shape":[2,6],"data_offsets":[38,44]}}"#;
const SHOWN_LEN: usize = 8 * 64 - 8;

#[test]
fn the_shown_header_never_changes() {
    let _alone = alone();
    let header = json!({"safetensors_metadata": {"format": "pt", "a": 1}, "tensors": [
        entry("p", 0, json!({"shape": [2, 3], "dtype": "float4_e2m1fn_x2", "compressed_bytes": 6})),
        entry("m", 10, json!({})),
        entry("b", 20, json!({"shape": [0, 3], "dtype": "float32", "compressed_bytes": 0})),
        entry("a/../é\"\\\u{1}", 20, json!({"shape": [2, 1], "dtype": "float32", "compressed_bytes": 8})),
        entry("B", 30, json!({"shape": [3], "dtype": "bfloat16", "compressed_bytes": 6})),
        entry("z", 40, json!({"shape": [], "dtype": "int64", "compressed_bytes": 8}))]});
    let container = open(&packed(2, header.to_string().as_bytes(), &[0; 50])).unwrap();
    let layout = container.layout([("b2", "B")]).unwrap();
    assert_eq!(
        std::str::from_utf8(&layout.header[8..]).unwrap(),
        SHOWN.to_owned() + &" ".repeat(SHOWN_LEN - SHOWN.len())
    );
    assert_eq!(layout.header[..8], (SHOWN_LEN as u64).to_le_bytes());
    assert_eq!(layout.tensors.iter().map(|t| t.entry).collect::<Vec<_>>(), [5, 3, 2, 4, 4, 1, 0]);
    assert_eq!(layout.raw_len, layout.header.len() as u64 + 44);

    let empty = open(&fixture("edge-empty-4.0.0.bs")).unwrap().layout([]).unwrap();
    assert_eq!(empty.header[8..], *[b"{}".as_slice(), &[b' '; 54]].concat());
}

#[test]
fn duplicates_are_shown_in_their_masters_shard() {
    let _alone = alone();
    for version in ["2.0.1", "4.0.0"] {
        let dir = format!("sharded-{version}");
        let text = fixture(&format!("{dir}/bigsmall.index.json"));
        let index = ShardIndex::parse(Path::new("i"), &text).unwrap();
        assert_eq!(index.shards(), ["model-00001-of-00002.bs", "model-00002-of-00002.bs"]);
        let (mut total, mut weight_map) = (0, BTreeMap::new());
        for shard in index.shards() {
            let container = open(&fixture(&format!("{dir}/{shard}"))).unwrap();
            let duplicates = index.duplicates(shard).iter().map(|d| (d.name.as_str(), d.master.as_str()));
            let layout = container.layout(duplicates).unwrap();
            let mut shown = layout.header.clone();
            shown.resize(layout.raw_len as usize, 0);
            let (_, metadata) = safetensors::SafeTensors::read_metadata(&shown).unwrap();
            for (name, info) in metadata.tensors() {
                total += info.data_offsets.1 - info.data_offsets.0;
                assert_eq!(index.shard_of(&name), Some(shard.as_str()));
                assert!(weight_map.insert(name, shown_name(shard).unwrap()).is_none());
            }
        }
        assert_eq!(weight_map.len(), 6);
        assert_eq!(weight_map["lm_head.weight"].contains("-00001-"), version == "4.0.0");
        assert_eq!(total, 22160);
        let mut expected =
            serde_json::to_string_pretty(&json!({"metadata": {"total_size": total}, "weight_map": weight_map}))
                .unwrap();
        expected.push('\n');
        assert_eq!(
            String::from_utf8(index.weight_index(total as u64, |shard| shown_name(shard).unwrap())).unwrap(),
            expected
        );
    }
}

#[test]
fn hostile_shard_indexes_are_refused() {
    let _alone = alone();
    let parse = |text: Value| ShardIndex::parse(Path::new("i"), text.to_string().as_bytes());
    let with = |shards: Value, map: Value, duplicates: Value| {
        parse(json!({"metadata": {"shards": shards, "duplicate_map": duplicates}, "weight_map": map}))
    };
    let index = with(json!(["a.bs"]), json!({"x\né": "a.bs"}), json!({"y": {"master": "x\né"}})).unwrap();
    assert_eq!(index.duplicates("a.bs").len(), 1);
    assert_eq!(index.duplicates("b.bs"), []);
    let shown = String::from_utf8(index.weight_index(5, |_| "a.safetensors".into())).unwrap();
    assert!(shown.contains(r#"    "x\n\u00e9": "a.safetensors","#), "{shown}");
    assert!(with(json!(["a.bs"]), json!({}), json!(null)).is_ok());
    assert_eq!(shown_name("x.safetensors.bs"), shown_name("x.bs"));

    for name in
        ["", ".", "..", ".bs", "..bs", "...bs", "a", "a.safetensors", "/a.bs", "../a.bs", "b/a.bs", "b\\a.bs", "a\0.bs"]
    {
        assert!(corrupt(with(json!([name]), json!({}), json!({}))).contains("no file name of a shard"), "{name}");
    }
    corrupt(with(json!(["x".repeat(253) + ".bs"]), json!({}), json!({})));
    corrupt(with(json!(["a.bs", "a.bs"]), json!({}), json!({})));
    corrupt(with(json!(["a.bs"]), json!({"x": "../a.bs"}), json!({})));
    corrupt(with(json!(["a.bs"]), json!({"x": "a.bs"}), json!({"y": {"master": "z"}})));
    corrupt(with(json!(["a.bs"]), json!({"x": "a.bs"}), json!({"x": {"master": "x"}})));
    corrupt(with(
        json!(["a.bs"]),
        json!({"x": "a.bs", "y": "a.bs"}),
        json!({"y": {"master": "x"}, "z": {"master": "y"}}),
    ));
    corrupt(parse(json!([])));
    corrupt(parse(json!({"weight_map": {}})));
    for text in [
        r#"{"metadata":{"shards":["a.bs"]},"weight_map":{"x":"a.bs","x":"a.bs"}}"#,
        r#"{"metadata":{"shards":[]},"weight_map":{},"weight_map":{}}"#,
        r#"{"metadata":{"shards":["a.bs"],"duplicate_map":{"y":{"master":"x"},"y":{"master":"x"}}},"weight_map":{"x":"a.bs"}}"#,
        "{\"metadata\":{\"shards\":[]},\"weight_map\":{\"\u{ff}\":1}}",
    ] {
        corrupt(ShardIndex::parse(Path::new("i"), text.as_bytes()));
    }
    let deep = format!(r#"{{"metadata":{{"shards":[]}},"weight_map":{{}},"x":{}}}"#, "[".repeat(100_000));
    assert!(corrupt(ShardIndex::parse(Path::new("i"), deep.as_bytes())).contains("deep"));

    let text = fixture("sharded-4.0.0/bigsmall.index.json");
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut flipped = text.clone();
            flipped[at] ^= 1 << bit;
            if let Ok(index) = bounded("flip", text.len(), || ShardIndex::parse(Path::new("i"), &flipped)) {
                assert!(index.shards().iter().all(|name| !name.contains('/') && name.ends_with(".bs")));
            }
        }
        assert!(ShardIndex::parse(Path::new("i"), &text[..at]).is_err());
    }
}

#[test]
fn other_files_and_versions_are_named() {
    let _alone = alone();
    let empty = br#"{"tensors":[]}"#;
    assert!(open(&packed(1, empty, &[])).is_ok());
    assert!(open(&packed(2, empty, b"anything")).is_ok());
    for version in [0, 3, 0x0100, u16::MAX] {
        let error = open(&packed(version, empty, &[])).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains(&version.to_string()));
    }
    let error = open(b"BGSD\x01\0\0\0\0\0").unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains(".bsd"), "{error}");
    for other in [&b""[..], b"BGS", b"PK\x03\x04aaaaaaaaaa"] {
        assert!(matches!(open(other), Err(Error::NotAContainer { .. })));
    }
    assert!(matches!(open(b"BGSM\x01\0"), Err(Error::Truncated { expected: 10, got: 6, .. })));
    // A header of 4 GiB, in a file of 20 bytes.
    let huge = [b"BGSM\x01\0\xff\xff\xff\xff", &[b' '; 10][..]].concat();
    assert!(matches!(bounded("4 GiB", 20, || open(&huge)), Err(Error::TooLarge { got: 0xffff_ffff, .. })));
    let large = [b"BGSM\x01\0\0\0\0\x04", &[b' '; 10][..]].concat();
    assert!(matches!(bounded("64 MiB", 20, || open(&large)), Err(Error::Truncated { got: 20, .. })));
}

#[test]
fn every_rule_has_a_file_that_breaks_it() {
    let _alone = alone();
    let header = |text: &str| open(&packed(1, text.as_bytes(), &[0; 1000]));
    let one = |edit: Value| tensors(json!([entry("t", 0, edit)]));
    one(json!({})).unwrap();

    // JSON.
    corrupt(header(""));
    corrupt(header("{}"));
    corrupt(header("[[],1,null,null]"));
    corrupt(header(r#"{"tensors":[]} x"#));
    corrupt(header(r#"{"tensors":[],"tensors":[]}"#));
    corrupt(header(r#"{"tensors":[],"tensor_count":1}"#));
    corrupt(header(r#"{"tensors":[["t",[],"uint8","raw",0,0,"",null]]}"#));
    corrupt(open(&packed(1, b"{\"tensors\":[],\"x\":\"\xff\"}", &[])));
    assert!(header(&format!(r#"{{"tensors":[],"x":{}{}}}"#, "[".repeat(60), "]".repeat(60))).is_ok());
    assert!(corrupt(header(&format!(r#"{{"tensors":[],"x":{}"#, "[".repeat(1_000_000)))).contains("deep"));
    assert!(corrupt(header(&format!(r#"{{"tensors":{}"#, "{\"a\":".repeat(1_000_000)))).contains("deep"));
    let text = json!({"tensors": [entry("t", 0, json!({}))]}).to_string();
    for key in ["name", "shape", "dtype", "codec", "compressed_bytes", "offset", "md5", "extra"] {
        let value = if key == "shape" { "[10]" } else { "0" };
        corrupt(header(&text.replace(r#""special""#, &format!(r#""{key}":{value},"special""#))));
        if key != "extra" {
            corrupt(header(&text.replace(&format!("\"{key}\""), "\"other\"")));
        }
    }

    // Names.
    assert!(corrupt(tensors(json!([entry("t", 0, json!({})), entry("t", 10, json!({}))]))).contains("'t'"));
    corrupt(tensors(json!([entry("__metadata__", 0, json!({}))])));
    corrupt(header(r#"{"tensors":[],"safetensors_metadata":{"a":"","a":""}}"#));
    let odd = tensors(json!([entry("../../etc/x\u{0}\n", 0, json!({}))])).unwrap();
    assert!(String::from_utf8(odd.layout([]).unwrap().header).unwrap().contains(r#""../../etc/x\u0000\n""#));

    // Shapes and lengths.
    for dim in ["-1", "1e1", "10.0", "true", "null", "\"10\"", "18446744073709551616", "-0"] {
        corrupt(header(&text.replace("[10]", &format!("[{dim}]"))));
    }
    corrupt(one(json!({"shape": vec![1; 65]})));
    corrupt(one(json!({"shape": [u64::MAX, 2]})));
    corrupt(one(json!({"shape": [1_u64 << 40, 1_u64 << 40]})));
    corrupt(one(json!({"shape": [0, u64::MAX], "compressed_bytes": 0})));
    one(json!({"shape": [0, 10], "compressed_bytes": 0})).unwrap();
    corrupt(one(json!({"shape": [5], "dtype": "f4"})));
    corrupt(one(json!({"shape": [], "dtype": "float4_e2m1fn_x2"})));
    let half = json!({"shape": [MAX_RAW_LEN / 2 + 1], "codec": "zstd"});
    one(half.clone()).unwrap();
    let both = tensors(json!([entry("a", 0, half.clone()), entry("b", 10, half)]));
    assert!(matches!(both, Err(Error::TooLarge { limit: MAX_RAW_LEN, .. })));

    // Places.
    one(json!({"offset": 990})).unwrap();
    corrupt(one(json!({"offset": 991})));
    corrupt(one(json!({"offset": u64::MAX})));
    corrupt(one(json!({"offset": 1001, "compressed_bytes": 0, "shape": [0]})));
    assert!(corrupt(tensors(json!([entry("a", 5, json!({})), entry("b", 0, json!({}))]))).contains("overlap"));
    tensors(json!([entry("a", 10, json!({})), entry("b", 0, json!({}))])).unwrap();
    assert!(corrupt(one(json!({"codec": "zstd", "compressed_bytes": 0}))).contains("no bytes at all"));
    corrupt(one(json!({"compressed_bytes": 9})));

    // Dtypes, codecs, digests.
    for (edit, what) in [
        (json!({"dtype": "float7"}), "'float7'"),
        (json!({"codec": "bf17_se_ac"}), "'bf17_se_ac'"),
        (json!({"codec": "special", "extra": {"special_kind": "odd"}}), "'odd'"),
        (json!({"codec": "special", "extra": {}}), "'special'"),
        (json!({"codec": "x\n".repeat(1000)}), "…"),
    ] {
        let error = one(edit).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains(what) && message.contains("tensor 't'") && !message.contains('\n'), "{message}");
    }
    corrupt(one(json!({"codec": "special"})));
    for (_, name, kind) in Coding::ALL {
        let extra = json!({"special_kind": kind});
        for (dtype, width) in [("uint8", 1), ("int16", 2), ("float32", 4), ("float64", 8)] {
            let wants = Coding::from_name(name, kind).unwrap().elem_bytes();
            let result = one(json!({"codec": name, "dtype": dtype, "extra": extra, "compressed_bytes": 10 * width}));
            assert_eq!(result.is_ok(), wants == 0 || wants == width, "{name} of {dtype}");
        }
    }
    for md5 in ["", "+41d8cd98f00b204e9800998ecf8427e", &"é".repeat(16), &"0".repeat(31), &"0".repeat(33)] {
        assert!(corrupt(one(json!({"md5": md5}))).contains("MD5"));
    }
}

#[test]
fn references_lead_to_tensors_and_never_on() {
    let _alone = alone();
    let tied = |name: &str, to: &str| {
        entry(name, 0, json!({"codec": "tied_ref", "compressed_bytes": 0, "extra": {"tied_to": to}}))
    };
    let good = tensors(json!([tied("a", "b"), entry("b", 0, json!({}))])).unwrap();
    assert_eq!(good.entries()[0].content, Content::Same(1));
    corrupt(tensors(json!([tied("a", "c"), entry("b", 0, json!({}))])));
    corrupt(tensors(json!([tied("a", "a")])));
    corrupt(tensors(json!([tied("a", "b"), tied("b", "a")])));
    corrupt(tensors(json!([tied("a", "b"), tied("b", "c"), entry("c", 0, json!({}))])));
    corrupt(tensors(json!([tied("a", "b"), entry("b", 0, json!({"shape": [5], "compressed_bytes": 5}))])));
    let mut stuffed = tied("a", "b");
    stuffed["compressed_bytes"] = json!(1);
    corrupt(tensors(json!([stuffed, entry("b", 1, json!({}))])));
    let mut bare = tied("a", "b");
    bare["extra"] = json!(null);
    corrupt(tensors(json!([bare, entry("b", 0, json!({}))])));
    let delta = tensors(json!([entry("a", 0, json!({"codec": "zstd_xor_delta"}))])).unwrap();
    assert!(delta.is_delta() && matches!(delta.entries()[0].content, Content::Xor(p) if p.coding == Coding::Zstd));
}

/// A group of `a` and `b`, four bytes each, changed by `edit`.
fn group(extra: Value, edit: impl FnOnce(&mut Value)) -> bsfs::Result<Container> {
    let mut master = json!({"group_kind": "stack", "members": ["a", "b"], "member_shape": [1, 2], "member_fmt": "bf16",
        "inner_codec": "raw", "inner_extras": {}, "chain_parts": null});
    for (key, value) in extra.as_object().unwrap() {
        master[key] = value.clone();
    }
    let member = json!({"group_master": "a", "member_index": 1});
    let shape = json!({"shape": [2], "dtype": "bfloat16", "codec": "raw", "compressed_bytes": 4});
    let mut all = json!([
        entry(
            "a",
            0,
            json!({"shape": [2], "dtype": "bfloat16", "codec": "group_stream_v1", "compressed_bytes": 8,
            "extra": master})
        ),
        entry(
            "b",
            0,
            json!({"shape": [2], "dtype": "bfloat16", "codec": "group_member", "compressed_bytes": 0,
            "extra": member})
        ),
        entry("c", 8, shape)
    ]);
    edit(&mut all);
    tensors(all)
}

#[test]
fn groups_and_members_name_each_other() {
    let _alone = alone();
    let good = group(json!({}), |_| ()).unwrap();
    let Content::Slice { part, skip: 4 } = good.entries()[1].content else { panic!() };
    assert_eq!((part.len, part.raw_len), (8, 8));
    let chain = |parts: Value| json!({"group_kind": "chain", "inner_codec": null, "chain_parts": parts});
    let good = group(chain(json!([["raw", {}, 4], ["zstd", null, 4]])), |_| ()).unwrap();
    assert!(matches!(&good.entries()[0].content, Content::Chain { count: 1, width: 2, .. }));
    assert!(matches!(&good.entries()[1].content, Content::Chain { count: 2, width: 2, .. }));

    for parts in [
        json!(null),
        json!([]),
        json!([["raw", {}, 8]]),
        json!([["raw", {}, 4], ["zstd", {}, 3]]),
        json!([["raw", {}, 4], ["zstd", {}, 5]]),
        json!([["zstd", {}, 0], ["zstd", {}, 8]]),
        json!([["raw", {}, 4], ["zstd", {}, u64::MAX]]),
        json!([["raw", {}, 4], ["fp32_se_ac", {}, 4]]),
        json!([["raw", {}, 4], ["zstd", {}, 4, 4]]),
    ] {
        corrupt(group(chain(parts), |_| ()));
    }
    for extra in [
        json!({"members": ["a"], "inner_codec": "zstd"}),
        json!({"members": ["b"]}),
        json!({"members": ["b", "a"]}),
        json!({"members": ["a", "a"]}),
        json!({"members": ["a", "b", "b"], "inner_codec": "zstd"}),
        json!({"members": ["a", "c"]}),
        json!({"members": ["a", "d"]}),
        json!({"members": []}),
        json!({"member_shape": [1, 3]}),
        json!({"member_shape": [u64::MAX, 3]}),
        json!({"member_fmt": "fp32", "member_shape": [1, 1]}),
        json!({"inner_codec": null}),
        json!({"inner_codec": "fp32_se_ac"}),
    ] {
        corrupt(group(extra, |_| ()));
    }
    for extra in [
        json!({"member_fmt": "fp8"}),
        json!({"group_kind": "heap"}),
        json!({"inner_codec": "tied_ref"}),
        json!({"inner_codec": "group_stream_v1"}),
        json!({"inner_codec": "zstd_xor_delta"}),
    ] {
        let error = group(extra, |_| ()).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains("tensor 'a'"), "{error}");
    }
    corrupt(group(json!({}), |all| all[1]["extra"]["group_master"] = json!("c")));
    corrupt(group(json!({}), |all| all[1]["extra"]["group_master"] = json!("nobody")));
    corrupt(group(json!({}), |all| all[1]["extra"]["member_index"] = json!(0)));
    corrupt(group(json!({}), |all| all[1]["extra"] = json!(null)));
    corrupt(group(json!({}), |all| all[1]["shape"] = json!([3])));
    corrupt(group(json!({}), |all| all[0]["extra"] = json!(null)));
    corrupt(group(json!({}), |all| {
        all[1]["compressed_bytes"] = json!(4);
        all[1]["offset"] = json!(20);
    }));
    // A member that its group does not list.
    corrupt(group(json!({}), |all| {
        all[2]["codec"] = json!("group_member");
        all[2]["compressed_bytes"] = json!(0);
        all[2]["extra"] = json!({"group_master": "a"});
    }));
}

#[test]
fn every_flip_and_cut_of_a_header_is_an_error_or_a_container_within_bounds() {
    let _alone = alone();
    for name in ["fp4-2.0.1.bs", "groups-4.0.0.bs", "edge-dtypes-4.0.0.bs", "delta-2.0.1.bs", "stack-4.0.0.bs"] {
        let bytes = fixture(name);
        let header_len = u32::from_le_bytes(bytes[6..10].try_into().unwrap()) as usize;
        let end = PREFIX_LEN + header_len;
        let try_open = |what: &str, bytes: &[u8]| {
            let source = MemorySource::new("x.bs", bytes.to_vec());
            // A flip may make the header longer, up to the file's end.
            let len = bytes.get(6..10).map_or(0, |len| u32::from_le_bytes(len.try_into().unwrap()) as usize);
            let result = bounded(what, len.min(bytes.len()).max(end), || Container::open(&source));
            if let Ok(container) = &result {
                let layout = container.layout([]).unwrap();
                assert_eq!(layout.tensors.len(), container.entries().len());
            }
            result
        };
        for at in 0..end {
            // A bit, and three bytes that change what JSON means.
            let flips = [bytes[at] ^ (1 << (at % 8)), b'"', b'9', b'{'];
            for value in flips {
                let mut flipped = bytes[..].to_vec();
                flipped[at] = value;
                _ = try_open(&format!("{name}, byte {at} = {value}"), &flipped);
            }
        }
        for len in 0..end {
            assert!(try_open(&format!("{name} cut to {len}"), &bytes[..len]).is_err());
            // The header cut short, and its length with it.
            if len >= PREFIX_LEN {
                let cut = packed(1, &bytes[PREFIX_LEN..len], &bytes[end..]);
                assert!(try_open(&format!("{name}, header cut to {len}"), &cut).is_err());
            }
        }
    }
}

#[test]
fn large_headers_take_a_small_multiple_of_their_length() {
    let _alone = alone();
    let row = |i: usize, shape: &str| {
        format!(
            r#"{{"name":"{i}","shape":[{shape}],"dtype":"u8","codec":"raw","compressed_bytes":0,"offset":0,"md5":"{MD5}"}},"#
        )
    };
    let list = |n: usize, shape: &str| {
        let mut rows: String = (0..n).map(|i| row(i, shape)).collect();
        rows.pop();
        format!(r#"{{"tensors":[{rows}]}}"#)
    };
    let members: String = "\"\",".repeat(60_000);
    let keys: String = (0..60_000).map(|i| format!(r#""{i:x}":"","#)).collect();
    let group = format!(
        r#"{{"name":"a","shape":[0],"dtype":"bfloat16","codec":"group_stream_v1","compressed_bytes":0,"offset":0,"md5":"{MD5}",
        "extra":{{"group_kind":"stack","members":[{}],"member_shape":[0],"member_fmt":"bf16","inner_codec":"raw"}}}}"#,
        members.trim_end_matches(',')
    );
    for (what, good, text) in [
        ("tensors", true, list(20_000, "0")),
        ("dimensions", true, list(5000, &["0"; 64].join(","))),
        ("too many dimensions", false, list(1, &vec!["0"; 1_000_000].join(","))),
        ("bad rows", false, format!(r#"{{"tensors":[{}{{}}]}}"#, "{},".repeat(500_000))),
        ("numbers", true, format!(r#"{{"x":[{}1],"tensors":[]}}"#, "1,".repeat(500_000))),
        ("brackets", true, format!(r#"{{"x":[{}[]],"tensors":[]}}"#, "[],".repeat(500_000))),
        ("members", false, format!(r#"{{"tensors":[{group}]}}"#)),
        (
            "too many members",
            false,
            format!(r#"{{"tensors":[{}]}}"#, group.replace(&members[..100_000], &members.repeat(2))),
        ),
        ("metadata", true, format!(r#"{{"safetensors_metadata":{{{}}},"tensors":[]}}"#, keys.trim_end_matches(','))),
    ] {
        let file = MemorySource::new("x.bs", packed(1, text.as_bytes(), &[]));
        let lists = if what.contains("members") || what == "metadata" { LISTS } else { 16 << 10 };
        let result = bounded_by(what, 9 * text.len() + lists, || Container::open(&file));
        assert_eq!(result.is_ok(), good, "{what}: {:?}", result.err());
    }
}

#[test]
fn what_is_written_is_read_back() {
    let _alone = alone();
    let shape = [2_u64, 6];
    let one = |name, elem, coding, packed_len| Finished { name, elem, shape: &shape, coding, packed_len, md5: [7; 16] };
    let finished = [
        one("w", elem("BF16"), Coding::Bf16SeRans, 20),
        one("é\"/..", elem("BF16"), Coding::Zstd, 11),
        one("f", elem("F32"), Coding::Fp32SeAc, 31),
        one("four", elem("F4"), Coding::Raw, 6),
        Finished { shape: &[], ..one("scalar", elem("F64"), Coding::Raw, 8) },
        Finished { shape: &[0], ..one("none", elem("BOOL"), Coding::Zstd, 0) },
        Finished { shape: &[3], ..one("odd", elem("F8_E8M0"), Coding::Zstd, 9) },
    ];
    let metadata = BTreeMap::from([("é".to_owned(), "x\ny".to_owned())]);
    let path = Path::new("out.bs");
    let mut bytes = header(path, Some(&metadata), &finished).unwrap();
    let data_start = bytes.len() as u64;
    bytes.resize(bytes.len() + 85, 0);
    let container = open(&bytes).unwrap();
    assert_eq!(container.metadata(), Some(&metadata));
    let mut at = data_start;
    for (entry, from) in container.entries().iter().zip(&finished) {
        assert_eq!((entry.name.as_str(), entry.elem, entry.shape.as_slice()), (from.name, from.elem, from.shape));
        assert_eq!(entry.md5, from.md5);
        let Content::Blob(part) = entry.content else { panic!() };
        assert_eq!((part.coding, part.offset, part.len), (from.coding, at, from.packed_len));
        at += part.len;
    }
    assert_eq!(at, bytes.len() as u64);

    let text = header(path, None, &finished[..2]).unwrap();
    let expected = concat!(
        r#"{"format":"bf16","mode":"balanced","model_type":"llm","base_model":null,"tensor_count":2,"tensors":["#,
        r#"{"name":"w","shape":[2,6],"dtype":"bfloat16","codec":"bf16_se_rans","special":null,"compressed_bytes":20,"#,
        r#""offset":0,"md5":"07070707070707070707070707070707","extra":null},"#,
        r#"{"name":"\u00e9\"/..","shape":[2,6],"dtype":"bfloat16","codec":"zstd","special":null,"compressed_bytes":11,"#,
        r#""offset":20,"md5":"07070707070707070707070707070707","extra":{"n_bytes":24}}],"safetensors_metadata":null}"#
    );
    assert_eq!(std::str::from_utf8(&text[10..]).unwrap(), expected);
    // As the package's own: an empty file of 2.0.1, but for what it says of no tensors.
    assert_eq!(header(path, None, &[]).unwrap(), fixture("edge-empty-2.0.1.bs"));

    let refused = |tensor| assert!(matches!(header(path, None, &[tensor]), Err(Error::Invalid { .. })));
    refused(one("x", elem("BF16"), Coding::Bf16V8, 1));
    refused(one("x", elem("F32"), Coding::Bf16SeAc, 1));
    refused(one("x", elem("F32"), Coding::Zstd, 0));
    refused(one("x", elem("F32"), Coding::Raw, 47));
    refused(one("__metadata__", elem("F32"), Coding::Raw, 48));
    refused(one("x", ElemType::BYTES, Coding::Raw, 12));
    refused(Finished { shape: &[u64::MAX, 9], ..one("x", elem("BF16"), Coding::Zstd, 1) });
    refused(Finished { shape: &[3], ..one("x", elem("F4"), Coding::Zstd, 1) });
}

#[test]
fn duplicates_need_a_master_and_a_name_of_their_own() {
    let _alone = alone();
    let container = tensors(json!([entry("a", 0, json!({})), entry("b", 10, json!({}))])).unwrap();
    assert_eq!(container.layout([("c", "a")]).unwrap().tensors.iter().map(|t| t.entry).collect::<Vec<_>>(), [0, 1, 0]);
    corrupt(container.layout([("c", "x")]));
    corrupt(container.layout([("b", "a")]));
    corrupt(container.layout([("c", "a"), ("c", "b")]));
    corrupt(container.layout([("__metadata__", "a")]));
    let large = json!({"shape": [MAX_RAW_LEN / 2 + 1], "codec": "zstd"});
    let container = tensors(json!([entry("a", 0, large)])).unwrap();
    assert!(matches!(container.layout([("c", "a")]), Err(Error::TooLarge { .. })));
}

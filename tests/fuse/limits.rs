//! The limits of the format and of the system: very many tensors, few threads, little address space, and root that is none.

use std::fs;
use std::process::Command;

use crate::common::Bench;
use crate::common::mounted::{BSFS, Mount, as_nobody, stderr};
use crate::common::tuned::{json, put, run, text, unpacked};

/// A file with so many tensors of 4 to 16 bytes, none like the other, or all of them alike.
fn many(count: usize, alike: bool) -> Vec<u8> {
    let (mut header, mut data, mut state) = (Vec::new(), Vec::new(), 1_u64);
    for i in 0..count {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let (bytes, elements) =
            if alike { ([0x3c; 16], 8) } else { ([state.to_le_bytes(); 2].concat().try_into().unwrap(), 2 + i % 7) };
        let start = data.len();
        data.extend(&bytes[..2 * elements]);
        header.push(format!(
            r#""model.layers.{}.mlp.experts.{i}.down_proj.weight_scale":{{"dtype":"BF16","shape":[{elements}],"data_offsets":[{start},{}]}}"#,
            i % 60,
            data.len()
        ));
    }
    let header = format!("{{{}}}", header.join(","));
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

#[test]
fn a_hundred_thousand_tensors_are_packed_verified_and_mounted() {
    let bench = Bench::new();
    for (name, alike) in [("unlike", false), ("alike", true)] {
        let bytes = many(100_000, alike);
        let plain = put(&bench.dir.join(format!("{name}.safetensors")), &bytes);
        let packed = bench.source().join(format!("{name}.safetensors.bs"));
        // Against itself under another name, so that all of it has counterparts.
        let base = put(&bench.dir.join(format!("base/{name}.safetensors")), &bytes);
        for more in [&[][..], &["--base", text(&base)], &["--dedup", "--chunk-size", "4M"]] {
            run(&bench, &[&["compress", text(&plain), "-f", "-o", text(&packed)], more].concat());
        }
        let verified = json(&bench, &["verify", text(&packed), "--source", text(&plain)]);
        assert_eq!((&verified[0]["state"], &verified[0]["tensors"]), (&"sound".into(), &100_000.into()), "{name}");
        let info = json(&bench, &["info", text(&packed)]);
        assert_eq!(
            (&info[0]["tensor_count"], &info[0]["format_version"]),
            (&100_000.into(), &info[0]["format_version"])
        );
        assert!(unpacked(&bench, &packed, None) == bytes, "{name}");
    }
    crate::common::age(&bench.source());
    let mount = Mount::new(&bench, &[]);
    for (name, alike) in [("unlike", false), ("alike", true)] {
        assert!(fs::read(mount.path(&format!("{name}.safetensors"))).unwrap() == many(100_000, alike), "{name}");
    }
}

#[test]
fn too_few_threads_or_too_little_address_space_is_one_line_and_no_abort() {
    let bench = Bench::new();
    put(&bench.dir.join("m.safetensors"), &crate::common::safetensors(1, 3_000_000));
    run(
        &bench,
        &["compress", text(&bench.dir.join("m.safetensors")), "-o", text(&bench.source().join("m.safetensors.bs"))],
    );
    let script = r#"
        for limit in nproc=1 nproc=2 nproc=3 nproc=4 nproc=6 nproc=10 nproc=16 \
            as=40M as=60M as=80M as=100M as=140M as=200M as=280M as=400M as=600M as=1G; do
            value=$(echo "${limit#*=}" | sed 's/M/000000/; s/G/000000000/')
            limited="prlimit --${limit%%=*}=$value --"
            # Where the loader itself finds no room there is no program.
            $limited ./bsfs --version >/dev/null 2>&1 || continue
            for verb in "compress m.safetensors -f -o o.bs" "decompress source/m.safetensors.bs -f -o o" \
                "verify source/m.safetensors.bs -j 8" "estimate m.safetensors" "bench m.safetensors -j 4 --rounds 1" \
                "mount source mount --timeout 20"; do
                rc=0; $limited ./bsfs $verb >out 2>err || rc=$?
                ./bsfs unmount mount >/dev/null 2>&1 || true
                echo "$rc|$(wc -l <err)|$limit|$verb|$(tr '\n' ' ' <err)"
            done
        done"#;
    let Some(output) = as_nobody(&bench, "", script) else {
        return crate::common::skip("takes root, to be another user");
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", stderr(&output));
    let mut refused = 0;
    for line in said.lines() {
        let fields: Vec<&str> = line.splitn(3, '|').collect();
        assert!(["0", "2", "75"].contains(&fields[0]), "{line}");
        // The standard library and the C library say themselves what a new thread has no memory for.
        let theirs = line.contains("Fatal glibc error") || line.contains("failed to allocate an alternative stack");
        assert!(!line.contains("defect") && (theirs || !line.contains("panicked")), "{line}");
        if fields[0] != "0" {
            refused += 1;
            // A mount may say first that the disk cache is off.
            assert!(fields[1] == "1" || line.contains("|mount ") && fields[1] == "2" || theirs, "{line}");
        }
    }
    assert!(refused > 5 && said.lines().any(|line| line.starts_with('0')), "{said}");
}

#[test]
fn root_of_a_user_namespace_is_promised_nothing_that_it_may_not() {
    let bench = Bench::new();
    let doctor = |mut command: Command| {
        let output = command.output().unwrap();
        let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let of = |what: &str| {
            let all = findings.as_array().into_iter().flatten();
            all.filter(|f| f["what"] == what).map(|f| f["state"].as_str().unwrap().to_owned()).next()
        };
        (of("passthrough"), of("readahead"), stderr(&output))
    };
    let mut command = Command::new("unshare");
    command.args(["-Ur", BSFS, "doctor", "--json"]).current_dir(&bench.dir);
    let (passthrough, _, said) = doctor(command);
    if passthrough.is_none() {
        return crate::common::skip(&format!("no user namespaces here: {said}"));
    }
    assert_eq!(passthrough.as_deref(), Some("note"), "{said}");
    // Of an ordinary user's namespace.
    let Some(output) = as_nobody(&bench, "", "unshare -Ur ./bsfs doctor --json || true") else {
        return crate::common::skip("takes root, to be another user");
    };
    let text = String::from_utf8_lossy(&output.stdout);
    for what in ["passthrough", "readahead"] {
        let findings: serde_json::Value = serde_json::from_str(&text).unwrap();
        let of = findings.as_array().unwrap().iter().find(|f| f["what"] == what).unwrap();
        assert_eq!(of["state"], "note", "{of}");
    }
}

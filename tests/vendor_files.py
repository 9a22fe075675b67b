"""Small writers of device files for tests: integers of each lead in, the bytes of a file out."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from leadwise.data.recordings.recording import RecordError

EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
LIMB = ("III", "aVR", "aVL", "aVF")


def beats(n_samples: int = 1000, rate_hz: float = 500, bpm: float = 60, size: int = 200) -> np.ndarray:
    """An ECG-like lead (T,) int16: one narrow spike for each beat on a small wave."""
    time = np.arange(n_samples) / rate_hz
    phase = (time * bpm / 60 + 0.4) % 1.0 - 0.5
    width = 0.015 * bpm / 60
    return np.round(size * np.exp(-((phase / width) ** 2) / 2) + 8 * np.sin(2 * np.pi * time + 0.7)).astype(np.int16)


def eight_leads(n_samples: int = 1000, rate_hz: float = 500, bpm: float = 60) -> dict[str, np.ndarray]:
    """I, II and V1 ... V6, each of another size."""
    return {lead: beats(n_samples, rate_hz, bpm, 100 + 40 * k) for k, lead in enumerate(EIGHT)}


def twelve_leads(n_samples: int = 1000, rate_hz: float = 500, bpm: float = 60) -> dict[str, np.ndarray]:
    """The twelve leads; limb leads obey the equations, halves rounded down."""
    eight = {lead: samples.astype(int) for lead, samples in eight_leads(n_samples, rate_hz, bpm).items()}
    one, two = eight["I"], eight["II"]
    three = two - one
    limb = (three, -((one + two) // 2), (one - three) // 2, (two + three) // 2)
    leads = {"I": one, "II": two} | dict(zip(LIMB, limb)) | {lead: eight[lead] for lead in EIGHT[2:]}
    return {lead: samples.astype(np.int16) for lead, samples in leads.items()}


def with_a_damaged_byte(content: bytes, begin: int, end: int, n: int, seed: int = 0) -> Iterator[bytes]:
    """The content `n` times, each time with a random value of one byte between `begin` and `end`."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        damaged = bytearray(content)
        damaged[rng.integers(begin, end)] = rng.integers(256)
        yield bytes(damaged)


def check_damage(read: Callable[[bytes], object], contents: Iterable[bytes]) -> None:
    """Read damaged contents: some raise a RecordError of one line, and none another error."""
    messages = []
    for content in contents:
        try:
            read(content)
        except RecordError as error:
            messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)


def base64_of(samples: np.ndarray) -> str:
    """Little-endian 16-bit integers as base64."""
    return base64.b64encode(np.asarray(samples).astype("<i2").tobytes()).decode()


# ---------------------------------------------------------------------------------------------------------------- MUSE


def muse_lead(name: str, samples: np.ndarray, **replaced: object) -> str:
    """One LeadData element; `replaced` holds values of its elements that differ from the right ones."""
    raw = np.asarray(samples).astype("<i2").tobytes()
    fields: dict[str, object] = {
        "LeadByteCountTotal": len(raw),
        "LeadTimeOffset": 0,
        "LeadSampleCountTotal": len(raw) // 2,
        "LeadAmplitudeUnitsPerBit": 4.88,
        "LeadAmplitudeUnits": "MICROVOLTS",
        "LeadID": name,
        "LeadOffsetFirstSample": 0,
        "LeadSampleSize": 2,
        "LeadOff": "FALSE",
        "LeadDataCRC32": zlib.crc32(raw),
        "WaveFormData": base64.b64encode(raw).decode(),
    } | replaced
    return "<LeadData>" + "".join(f"<{tag}>{value}</{tag}>" for tag, value in fields.items()) + "</LeadData>"


def muse(
    leads: Mapping[str, np.ndarray] | None = None,
    *,
    rate_hz: int = 500,
    extra: str = "",
    heart_rate: int = 60,
    statements: Sequence[tuple[str, bool]] = (("Sinus rhythm", True),),
    kinds: Sequence[str] = ("Median", "Rhythm"),
    replaced: Mapping[str, Mapping[str, object]] | None = None,
) -> str:
    """A MUSE resting ECG; the median holds other numbers than the rhythm. A statement is text, and whether its line ends."""
    leads = eight_leads() if leads is None else leads
    waves = []
    for kind in kinds:
        of_kind = leads if kind == "Rhythm" else {name: np.full(600, 7) for name in leads}
        data = "".join(muse_lead(name, samples, **(replaced or {}).get(name, {})) for name, samples in of_kind.items())
        waves.append(
            f"<Waveform><WaveformType>{kind}</WaveformType><SampleBase>{rate_hz}</SampleBase>"
            f"<SampleExponent>0</SampleExponent>{data}{extra if kind == 'Rhythm' else ''}</Waveform>"
        )
    lines = "".join(
        f"<DiagnosisStatement>{'<StmtFlag>ENDSLINE</StmtFlag>' if ends else ''}<StmtText>{text}</StmtText></DiagnosisStatement>"
        for text, ends in statements
    )
    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<!DOCTYPE RestingECG SYSTEM "restecg.dtd">\n<RestingECG>'
        "<MuseInfo><MuseVersion>9.0.7.1</MuseVersion></MuseInfo><PatientDemographics><PatientID>4711</PatientID>"
        "<PatientAge>18</PatientAge><AgeUnits>MONTHS</AgeUnits><DateofBirth>03-04-1958</DateofBirth><Gender>FEMALE</Gender>"
        "<PatientLastName>M\u00fcller</PatientLastName></PatientDemographics><TestDemographics>"
        "<AcquisitionDevice>MAC</AcquisitionDevice><AcquisitionDate>12-24-2019</AcquisitionDate></TestDemographics>"
        f"<RestingECGMeasurements><VentricularRate>{heart_rate}</VentricularRate><PRInterval>180</PRInterval>"
        "<QRSDuration>90</QRSDuration><QTInterval>400</QTInterval></RestingECGMeasurements>"
        f"<Diagnosis>{lines}</Diagnosis>{''.join(waves)}</RestingECG>"
    )


# ------------------------------------------------------------------------------------------------------------- Philips


def lzw(content: bytes) -> bytes:
    """10-bit LZW codes, most significant bit first, ended by the code 1023."""
    table = {bytes([value]): value for value in range(256)}
    codes, string = [], b""
    for value in content:
        longer = string + bytes([value])
        if longer in table:
            string = longer
            continue
        codes.append(table[string])
        if len(table) < 1023:
            table[longer] = len(table)
        string = bytes([value])
    codes += [table[string], 1023]
    bits = "".join(f"{code:010b}" for code in codes)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[k : k + 8], 2) for k in range(0, len(bits), 8))


def xli_chunk(samples: np.ndarray) -> bytes:
    """One lead as XLI: 8 bytes of header, then compressed second differences, which wrap at 16 bits."""
    values = np.asarray(samples).astype(np.int64)
    second = 2 * values[1:-1] - values[:-2] - values[2:]  # of the samples 2, 3, ...
    words = np.concatenate([values[:2], second[1:] + 64, [0]]) & 0xFFFF
    body = lzw(bytes((words >> 8).tolist()) + bytes((words & 0xFF).tolist()))
    return len(body).to_bytes(4, "little") + b"\x00\x00" + int(second[0] & 0xFFFF).to_bytes(2, "little") + body


def xli(leads: Sequence[np.ndarray], n_chunks: int = 16) -> bytes:
    """Twelve or more leads as XLI; III, aVR, aVL and aVF are residuals of I and II, further chunks are zeros."""
    wide = [np.asarray(lead).astype(np.int64) for lead in leads]
    one, two, three = wide[:3]
    residuals = [
        two - one - three,
        -wide[3] - (one + two) // 2,
        (one - three) // 2 - wide[4],
        (two + three) // 2 - wide[5],
    ]
    chunks = [one, two, *residuals, *wide[6:]]
    chunks += [np.zeros(len(one))] * (n_chunks - len(chunks))
    return b"".join(xli_chunk(chunk) for chunk in chunks)


def with_calibration(leads: Mapping[str, np.ndarray], rate_hz: float = 500, uv: float = 5) -> dict[str, np.ndarray]:
    """The leads with 0.1 s of zeros, a pulse of 1 mV during 0.2 s and 0.2 s of zeros behind them."""
    tail = np.concatenate([np.zeros(round(0.1 * rate_hz)), np.full(round(0.2 * rate_hz), round(1000 / uv))])
    tail = np.concatenate([tail, np.zeros(round(0.2 * rate_hz))])
    return {name: np.concatenate([samples, tail]).astype(np.int16) for name, samples in leads.items()}


def philips(
    leads: Mapping[str, np.ndarray] | None = None,
    *,
    version: str = "1.04",
    rate_hz: int = 500,
    waveform: str | None = None,
    statements: Sequence[str] = ("SINUS RHYTHM",),
    heart_rate: int = 60,
    n_stated: int | None = None,
) -> str:
    """A Philips ECG with XLI; in version 1.03 the acquisition describes the samples, later the waveform itself."""
    leads = twelve_leads() if leads is None else leads
    n_samples = len(next(iter(leads.values()))) if n_stated is None else n_stated
    duration = f"{1000 * n_samples / rate_hz:g}"
    content = base64.b64encode(xli(list(leads.values()))).decode() if waveform is None else waveform
    lines = "".join(
        f"<statement><leftstatement>{line}</leftstatement><rightstatement>rate 1</rightstatement></statement>"
        for line in statements
    )
    if version == "1.03":
        attributes = f'compressflag="True" compressmethod="XLI" dataencoding="Base64" durationperchannel="{duration}"'
    else:
        attributes = (
            f'compression="XLI" dataencoding="Base64" leadlabels="{" ".join(leads)}" numberofleads="{len(leads)}" '
            f'samplespersecond="{rate_hz}" resolution="5" signaloffset="0" durationperchannel="{duration}"'
        )
    return (
        f'<?xml version="1.0" encoding="UTF-16"?>\n<restingecgdata xmlns="http://www3.medical.philips.com">'
        f"<documentinfo><documentversion>{version}</documentversion></documentinfo>"
        "<userdefines><userdefine><label>visit</label><value>99887</value></userdefine></userdefines>"
        '<dataacquisition date="2012-03-04" time="10:11:12"><machine machineid="X1">PageWriter</machine>'
        f"<signalcharacteristics><samplingrate>{rate_hz}</samplingrate><signalresolution>5</signalresolution>"
        f"<acquisitiontype>STD-12</acquisitiontype><numberchannelsallocated>{len(leads)}</numberchannelsallocated>"
        "</signalcharacteristics></dataacquisition><patient><generalpatientdata><patientid>4711</patientid>"
        '<name><lastname>Miller</lastname></name><age defaultage="50"><dateofbirth>1960-05-01</dateofbirth></age>'
        "<sex>Male</sex></generalpatientdata></patient><interpretations><interpretation>"
        f"<globalmeasurements><heartrate>{heart_rate}</heartrate><print>160</print><qrsdur>90</qrsdur><qtint>Failed</qtint>"
        "</globalmeasurements><mdsignatureline>Confirmed by: Dr Smith 04-Mar-2012</mdsignatureline>"
        f'<severity code="NO">- NORMAL ECG -</severity>{lines}</interpretation></interpretations>'
        f"<waveforms><parsedwaveforms {attributes}>{content}</parsedwaveforms></waveforms></restingecgdata>"
    )


# ---------------------------------------------------------------------------------------------------------------- aECG


def aecg_sequence(name: str, samples: np.ndarray, scale: str = "2.5", origin: str = "0", unit: str = "uV") -> str:
    """The digits of one lead."""
    digits = " ".join(map(str, np.asarray(samples).tolist()))
    return (
        f'<component><sequence><code code="{name}"/><value><origin value="{origin}" unit="{unit}"/>'
        f'<scale value="{scale}" unit="{unit}"/><digits>{digits}</digits></value></sequence></component>'
    )


def aecg(
    leads: Mapping[str, np.ndarray] | None = None,
    *,
    increment: str = "0.002",
    unit: str = "s",
    sequences: str | None = None,
    code: str = "RHYTHM",
    heart_rate: int = 60,
    statements: Sequence[str] = ("Sinus rhythm",),
) -> str:
    """An annotated ECG with a derived beat of other numbers behind its rhythm."""
    leads = twelve_leads() if leads is None else leads
    lead_code = {name: f"MDC_ECG_LEAD_{name.upper()}" for name in leads}
    if sequences is None:
        sequences = "".join(aecg_sequence(lead_code[name], samples) for name, samples in leads.items())
    time = (
        '<component><sequence><code code="TIME_ABSOLUTE"/><value><head value="20200102101112"/>'
        f'<increment value="{increment}" unit="{unit}"/></value></sequence></component>'
    )
    beat = "".join(aecg_sequence(one, np.full(500, 9)) for one in lead_code.values())
    annotations = "".join(
        f'<component><annotation><code code="{one}"/><value value="{value}" unit="{of}"/></annotation></component>'
        for one, value, of in (
            ("MDC_ECG_HEART_RATE", heart_rate, "bpm"),
            ("MDC_ECG_TIME_PD_PR", 160, "ms"),
            ("MDC_ECG_TIME_PD_QT", 0.4, "s"),
        )
    )
    texts = "".join(
        f'<component><annotation><code code="MDC_ECG_INTERPRETATION_STATEMENT"/><value>{text}</value></annotation></component>'
        for text in statements
    )
    return (
        "<!-- "
        + "a comment " * 500
        + '-->\n<AnnotatedECG xmlns="urn:hl7-org:v3"><effectiveTime><center value="20200102"/>'
        "</effectiveTime><subject><subjectDemographicPerson><name>Miller</name>"
        '<administrativeGenderCode code="F"/><birthTime value="19600103"/></subjectDemographicPerson></subject>'
        f'<component><series><code code="{code}"/><effectiveTime><low value="20200102101112"/></effectiveTime><author>'
        "<seriesAuthor><manufacturedSeriesDevice><manufacturerModelName>ELI250</manufacturerModelName>"
        "</manufacturedSeriesDevice></seriesAuthor></author>"
        f"<component><sequenceSet>{time}{sequences}</sequenceSet></component><derivation><derivedSeries><component>"
        f"<sequenceSet>{time}{beat}</sequenceSet></component></derivedSeries></derivation>"
        f"<subjectOf><annotationSet>{annotations}<component><annotation>{texts}</annotation></component></annotationSet>"
        "</subjectOf></series></component></AnnotatedECG>"
    )


# ------------------------------------------------------------------------------------- Mortara, CardioSoft, Schiller


def mortara(leads: Mapping[str, np.ndarray] | None = None, *, rate_hz: int = 500, **replaced: object) -> str:
    """A Mortara ELI ECG; `replaced` holds attributes of its channels that differ from the right ones."""
    channels = ""
    for name, samples in (twelve_leads() if leads is None else leads).items():
        attributes: dict[str, object] = {
            "OFFSET": 0,
            "BITS": 16,
            "FORMAT": "SIGNED",
            "UNITS_PER_MV": 400,
            "DURATION": len(samples),
            "SAMPLE_FREQ": rate_hz,
            "NAME": name,
            "ENCODING": "BASE64",
            "DATA": base64_of(samples),
        } | replaced
        channels += "<CHANNEL " + " ".join(f'{key}="{value}"' for key, value in attributes.items()) + "/>"
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ECG ACQUISITION_TIME="20150102030405" AGE="61" AGE_UNITS="YEARS" '
        'VENT_RATE="60"><SUBJECT LAST_NAME="Miller" ID="4711" GENDER="Female" DOB="19540102"/>'
        '<SOURCE MANUFACTURER="Mortara Instrument, Inc." MODEL="ELI250c"/><AUTOMATIC_INTERPRETATION>'
        '<STATEMENT TEXT="Sinus rhythm" REASON="x"/><STATEMENT TEXT="Reviewed by J Miller" REASON=""/>'
        '</AUTOMATIC_INTERPRETATION><TYPICAL_CYCLE PR_DURATION="150" QRS_DURATION="92" QT="388">'
        f'<TYPICAL_CYCLE_CHANNEL NAME="I" DATA="AAAA"/></TYPICAL_CYCLE>{channels}</ECG>'
    )


def cardiosoft(
    leads: Mapping[str, np.ndarray] | None = None, *, rate_hz: int = 500, n_stated: int | None = None
) -> str:
    """A CardioSoft export with median beats of other numbers before the strip."""
    leads = twelve_leads() if leads is None else leads

    def wave(samples: dict[str, np.ndarray], count: int) -> str:
        data = "".join(
            f'<WaveformData lead="{name}">{",".join(map(str, values.tolist()))}</WaveformData>'
            for name, values in samples.items()
        )
        return (
            f'<SampleRate units="Hz">{rate_hz}</SampleRate><ChannelSampleCountTotal>{count}</ChannelSampleCountTotal>'
            f'<Resolution units="uVperLsb">5</Resolution>{data}'
        )

    medians = wave({name: np.full(600, 9) for name in leads}, 600)
    strip = wave(dict(leads), len(next(iter(leads.values()))) if n_stated is None else n_stated)
    return (
        '<?xml version="1.0" encoding="ISO8859-1" ?>\r\r\n<CardiologyXML><ObservationDateTime><Year>2014</Year>'
        "</ObservationDateTime><ClinicalInfo><DeviceInfo><Desc>CardioSoft</Desc><SoftwareVer>V6.73</SoftwareVer></DeviceInfo>"
        "</ClinicalInfo><PatientInfo><PID>4711</PID><Name><FamilyName>J\u00f6rg</FamilyName></Name>"
        '<Age units="YEARS">18</Age><Gender>MALE</Gender></PatientInfo><Interpretation><Diagnosis>'
        "<DiagnosisText>Sinus rhythm</DiagnosisText><DiagnosisText>Confirmed by Dr. J\u00f6rg</DiagnosisText></Diagnosis>"
        "</Interpretation><RestingECGMeasurements><VentricularRate>60</VentricularRate><PQInterval>150</PQInterval>"
        f"<QRSDuration>90</QRSDuration><QTInterval>400</QTInterval><MedianSamples>{medians}</MedianSamples>"
        f"</RestingECGMeasurements><StripData>{strip}</StripData></CardiologyXML>"
    )


def schiller(leads: Mapping[str, np.ndarray] | None = None, *, rate_hz: int = 500, n_stated: int | None = None) -> str:
    """A Schiller export with averages of other numbers before the rhythm."""
    leads = twelve_leads() if leads is None else leads

    def wave(kind: str, samples: Mapping[str, np.ndarray]) -> str:
        channels = "".join(
            f"<channel><name>{name}</name><data>{','.join(map(str, values.tolist()))}</data><datastype>COMMASEPARATE</datastype>"
            f"<samplecount>{len(values) if n_stated is None else n_stated}</samplecount></channel>"
            for name, values in samples.items()
        )
        return (
            f"<wavedata><type>{kind}</type><resolution><samplerate><exponent>1</exponent><value>{rate_hz}</value>"
            f"</samplerate><yres><unitperbit>2.5</unitperbit><units>UV</units></yres></resolution>{channels}</wavedata>"
        )

    averages = wave("ECG_AVERAGES", {name: np.full(580, 9) for name in leads})
    return (
        '<?xml version="1.0" encoding="UTF-8"?><com.xiriuz.sema.xml.schillerEDI.SchillerEDI><patdata><id>4711</id>'
        "<lastname>Miller</lastname><birthdate>19500506</birthdate><gender>MALE</gender></patdata><examdescript>"
        "<startdatetime><date>20060502</date></startdatetime><aquiringdevice><hardware><model>AT-110</model></hardware>"
        f"</aquiringdevice></examdescript><eventdata><event>{averages}{wave('ECG_RHYTHMS', leads)}<annotation_global>"
        "<name>HR</name><value>60</value></annotation_global><annotation_global><name>QT</name><value>410</value>"
        "</annotation_global><textdata><type>INTERPRETATION</type><textdata>Sinus rhythm\nSigned by Dr. Miller 2.5.2006"
        "</textdata></textdata></event></eventdata></com.xiriuz.sema.xml.schillerEDI.SchillerEDI>"
    )

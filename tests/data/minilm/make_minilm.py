"""Makes texts.json, 200 texts, and vectors.npy, f32 [200, 384]: what sentence-transformers gives for them.

    python make_minilm.py MODEL        # with torch, transformers and sentence-transformers

MODEL is the folder of all-MiniLM-L6-v2 that `make minilm` fetches. The texts are sentences of our own in many languages,
odd ones, and passages of Alice's Adventures in Wonderland (../../../data/alice) of 1 to 600 tokens.
"""
import json
import sys
from pathlib import Path

import numpy
from sentence_transformers import SentenceTransformer

here = Path(__file__).parent
sentences = """\
The train to the coast leaves at half past six in the morning.
A small boat crossed the bay before the storm came in.
She planted beans along the fence and forgot about them until June.
How do I renew a passport that has already expired?
What is the boiling point of water at two thousand metres?
The committee postponed its decision for the third time this year.
He tuned the old piano by ear, one string at a time.
Bread needs flour, water, salt and patience.
My neighbour's cat has learned to open the kitchen window.
The function returns nothing when the list is empty.
Compile the program with warnings switched on, and read them.
Interest rates were left unchanged after a long debate.
Two plus two is four, and two times two is four as well.
The museum is closed on Mondays and on public holidays.
Please find attached the minutes of yesterday's meeting.
A red bicycle was leaning against the wall of the library.
Rain is expected in the north, with strong winds near the sea.
The patient was given ten milligrams twice a day.
Nobody knew who had painted the door green.
I would rather walk than wait for another bus.
Stars near the horizon seem to twinkle more than those overhead.
The recipe calls for a pinch of nutmeg; I used two.
Our team lost in the last minute of the match.
An honest answer is shorter than an excuse.
The river froze in January and thawed in the middle of March.
Der Zug zur Küste fährt um halb sieben Uhr morgens ab.
Im Garten blühen schon die ersten Schneeglöckchen.
Die Straßenbahn hält direkt vor dem großen Rathaus.
Le train pour la côte part à six heures et demie du matin.
Où est passée la clé de la boîte aux lettres ?
Nous avons mangé des crêpes à la crème brûlée près de Besançon.
El tren hacia la costa sale a las seis y media de la mañana.
¿Cuánto cuesta un kilo de piñones en el mercado?
Il treno per la costa parte alle sei e mezza del mattino.
La città vecchia è più bella quando piove.
O comboio para a costa parte às seis e meia da manhã.
A avó fez pão de ló para a sobremesa de domingo.
De trein naar de kust vertrekt om half zeven 's ochtends.
Tåget till kusten går klockan halv sju på morgonen.
Toget til kysten går klokken halv syv; blåbærene er på bordet.
Juna rannikolle lähtee puoli seitsemältä aamulla.
Pociąg nad morze odjeżdża o wpół do siódmej rano.
Zażółć gęślą jaźń, powiedział ktoś w kolejce.
Vlak k pobřeží odjíždí v půl sedmé ráno.
Příliš žluťoučký kůň úpěl ďábelské ódy.
A vonat a tengerpartra reggel fél hétkor indul.
Trenul spre coastă pleacă la șase și jumătate dimineața.
Sahile giden tren sabah altı buçukta kalkıyor.
İstanbul'da ılık bir akşam, ışıklar suya düşüyor.
Chuyến tàu ra biển khởi hành lúc sáu giờ rưỡi sáng.
Kereta ke pantai berangkat pukul setengah tujuh pagi.
Treni ya pwani huondoka saa kumi na mbili na nusu asubuhi.
Поезд к морю отправляется в половине седьмого утра.
Съешь же ещё этих мягких французских булок, да выпей чаю.
Потяг до моря вирушає о пів на сьому ранку.
Влакът за морето тръгва в шест и половина сутринта.
Воз за обалу полази у пола седам ујутру.
Το τρένο για την ακτή φεύγει στις έξι και μισή το πρωί.
Ο σκύλος κοιμάται στη σκιά της ελιάς.
הרכבת לחוף יוצאת בשש וחצי בבוקר.
שָׁלוֹם עוֹלָם
يغادر القطار إلى الساحل في السادسة والنصف صباحا.
السَّلامُ عَلَيْكُم يا أصدقاء
قطار ساحل ساعت شش و نیم صبح حرکت می‌کند.
तट की ओर जाने वाली ट्रेन सुबह साढ़े छह बजे छूटती है।
नमस्ते दुनिया, आज मौसम अच्छा है।
উপকূলের ট্রেন সকাল সাড়ে ছয়টায় ছাড়ে।
கடற்கரைக்குச் செல்லும் ரயில் காலை ஆறரை மணிக்குப் புறப்படும்.
రైలు ఉదయం ఆరున్నరకు బయలుదేరుతుంది.
รถไฟไปชายฝั่งออกเวลาหกโมงครึ่งในตอนเช้า
开往海边的火车早上六点半出发。
今天的天气很好,我们去公园散步吧。
前往海邊的火車早上六點半出發。
海岸行きの列車は朝六時半に出発します。
カタカナとひらがなと漢字が混ざった文。
ガギグゲゴ パピプペポ
해안으로 가는 기차는 아침 여섯 시 반에 출발합니다.
한국어 문장을 하나 더 적어 봅니다.
მატარებელი სანაპიროსკენ დილით გადის.
Գնացքը մեկնում է առավոտյան վեց անց կեսին։
ባቡሩ ጠዋት ላይ ይነሳል።
ລົດໄຟອອກຕອນເຊົ້າ
Kereta api 🚂 menuju pantai 🏖️ berangkat pagi.""".split("\n")
odd = [
    "", " ", "\t", "\n", "a", "A", "é", "e\u0301", "I", "0", ".", "...", "?!", "\u00a0", "\u3000", "\u200b",
    "hello", "HELLO", "  hello  ", "hello\nworld", "hello\r\nworld\r\n", "one\ttab", "two\n\nlines\n\nand an end\n",
    "👍", "👍🏽", "👩‍👩‍👧‍👦 went out", "🇫🇷 vs 🇩🇪", "I ❤️ tests 🙂🙃", "😀" * 40, "naïve café résumé", "ﬁne ﬂour ﬀ",
    "½ cup ± 3 ℃, x² + y₂", "Ⅷ ⅸ ①②③", "ＦＵＬＬ　ｗｉｄｔｈ", "𝕳𝖊𝖑𝖑𝖔 𝓌𝑜𝓇𝓁𝒹", "Ǆ ǅ ǆ ẞ ß ſ", "a\u0300\u0301\u0302\u0303b",
    "[CLS] hello [SEP]", "[MASK] [UNK] [PAD] ##ing", "don't can't won't it's", "state-of-the-art re-entry e-mail",
    "https://example.org/a/b?c=d&e=f#g", "someone@example.org", "C:\\Temp\\file.txt", "/usr/local/bin:/usr/bin",
    "def f(x):\n    return x ** 2  # square\n", "{\"a\": [1, 2.5e-3, null]}", "SELECT * FROM t WHERE a < 3;",
    "<p class=\"x\">&amp;</p>", "1,234,567.89 €", "2026-11-21T18:30:00Z", "+49 (0)30 123456", "3.14159265358979323846",
    "0123456789" * 30, "x" * 99, "x" * 100, "x" * 101, "antidisestablishmentarianism", "Donaudampfschifffahrtsgesellschaft",
    "supercalifragilisticexpialidocious " * 10, "the " * 253, "the " * 254, "the " * 255, "the " * 600,
    "\ufeffbyte order mark", "\u202eright to left\u202c", "control \u0001\u0002 characters \u007f", "\ufffd replaced",
    "中" * 120, "ア" * 300, "ก" * 200, "\u0e33\u0eb3", "a" + "\u0301" * 50, "— – - ‐ ‑ ‒ ―", "“quoted” ‘text’ «ici» „so“",
    "$100 £5 ¥300 ₹40 ₿1", "∑ ∫ √ ∞ ≠ ≤ ≥ ∈ ∀ ∃", "♔♕♖♗♘♙ ♪♫", "████▓▒░", "\ue000\uf8ff private use"]
book = " ".join(json.loads(line)["text"] for line in
                (here.parents[2] / "data" / "alice" / "train.jsonl").read_text(encoding="utf-8").splitlines())
words = book.split(" ")
passages = []
at = 0
while len(sentences) + len(odd) + len(passages) < 200:
    size = round(450 * (len(passages) / 37) ** 2) + 1
    passages.append(" ".join(words[at:at + size]))
    at += size
texts = sentences + odd + passages
assert len(texts) == 200 and len(words) > at, (len(sentences), len(odd), at, len(words))
model = SentenceTransformer(sys.argv[1], device="cpu")
vectors = numpy.stack([model.encode(text) for text in texts]).astype("<f4")
lengths = [len(ids) for ids in model.tokenizer(texts, truncation=False)["input_ids"]]
print("tokens:", min(lengths), "to", max(lengths), "sum", sum(lengths))
(here / "texts.json").write_text(json.dumps(texts, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
numpy.save(here / "vectors.npy", vectors)
